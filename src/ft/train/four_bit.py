"""torchao's AdamW with moments of 4 bits, in the form that schedules and checkpoints know.

torchao holds the learning rate as a tensor and the moments as tensor subclasses. Here the rate is a
number between steps, and the state is told in plain tensors.

Imported only when the optimizer is asked for: torchao is not required.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchao.optim import AdamW4bit  # type: ignore[import-not-found, unused-ignore]

_SIGNED = {"exp_avg": True, "exp_avg_sq": False, "max_exp_avg_sq": False}
"""The moments, and whether they may be negative: torchao quantizes each kind in its own way."""


class PlainAdamW4bit(AdamW4bit):  # type: ignore[misc, unused-ignore]
    """AdamW with moments of 4 bits in blocks of 128, https://arxiv.org/abs/2309.01507."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; the learning rate stays a number."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["lr"] = float(group["lr"])

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update."""
        rates = [float(group["lr"]) for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = torch.tensor(rate, dtype=torch.float32)
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """As torch's, each moment as a mapping of its parts: codes, scales, table of values."""
        state: dict[str, Any] = super().state_dict()
        plain = {
            index: {name: _parts_of(value) for name, value in moments.items()}
            for index, moments in state["state"].items()
        }
        return {**state, "state": plain}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores, bit for bit, what ``state_dict`` told."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        state = {
            index: {
                name: self._moment(parameters[int(index)], name, value)
                for name, value in moments.items()
            }
            for index, moments in state_dict["state"].items()
        }
        super().load_state_dict({**state_dict, "state": state})

    def _moment(self, parameter: Tensor, name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        moment = self._new_buffer(parameter, _SIGNED[name])
        for part, tensor in value.items():
            getattr(moment, part).copy_(tensor)
        return moment


def _parts_of(value: Any) -> Any:
    if type(value) in (Tensor, torch.nn.Parameter) or not hasattr(value, "__tensor_flatten__"):
        return value
    names, _ = value.__tensor_flatten__()
    return {name: getattr(value, name) for name in names}

"""Llama 4 with experts as linear layers, for checkpoints that hold them so.

Llama 4 holds the experts of a layer in two tensors, which bitsandbytes and adapters pass over.
Checkpoints exist (axolotl-quants/Llama-4-*-Linearized-*) that hold each expert as three linear
layers: feed_forward.experts.{gate_projs,up_projs,down_projs}.N.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.llama4 import modeling_llama4

from ft.runtime.errors import Problem, UserError


class LinearExperts(nn.Module):
    """The experts of a layer, each of three linear layers; the same function as the fused ones."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner, number = (
            config.hidden_size,
            config.intermediate_size,
            config.num_local_experts,
        )
        self.gate_projs = _linear_layers(number, width, inner)
        self.up_projs = _linear_layers(number, width, inner)
        self.down_projs = _linear_layers(number, inner, width)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, routed: Tensor) -> Tensor:
        """[num_experts * T, width], the tokens of one expert after those of another -> the same."""
        parts = routed.reshape(len(self.gate_projs), -1, routed.shape[-1])
        experts = zip(self.gate_projs, self.up_projs, self.down_projs, parts, strict=True)
        return torch.cat([down(up(x) * self.act_fn(gate(x))) for gate, up, down, x in experts])


class _LinearMixture(modeling_llama4.Llama4TextMoe):  # type: ignore[misc]  # transformers' is untyped
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.experts = LinearExperts(config)


def _linear_layers(number: int, width_in: int, width_out: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width_in, width_out, bias=False) for _ in range(number))


@contextmanager
def linearized_experts(config: Any) -> Iterator[None]:
    """Llama 4 models that are built in the block have their experts as linear layers.

    Raises:
        UserError: the config is of another model.
    """
    if config.get_text_config().model_type != "llama4_text":
        raise UserError(
            Problem(
                f"the base is {config.model_type}, no Llama 4",
                "llama4_linearized_experts",
                fix="remove it; quantize_moe_experts serves mixtures of every kind",
            )
        )
    before = modeling_llama4.Llama4TextMoe
    modeling_llama4.Llama4TextMoe = _LinearMixture
    try:
        yield
    finally:
        modeling_llama4.Llama4TextMoe = before

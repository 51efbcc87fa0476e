"""Steps whose figures are still on the device, and what keeps the weights safe until they are read.

Reading a number from a GPU waits for all that was asked of it before. So where a run reports every
few steps only, its numbers are read then. A step with a loss or a gradient that is no number must
not reach the weights all the same: an optimizer of torch's fused kind takes a flag on the device
(made for gradient scalers) with which it changes nothing, neither weights nor state; once raised,
the flag stays up. When the numbers are read, the run stops with the weights of the step before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ft.data.batches import TokenRow


@dataclass(frozen=True)
class LaunchedStep:
    """What is known of a step before it is read."""

    step: int
    """Counted from 1."""
    loss_sum: Tensor
    grad_norm: Tensor
    learning_rate: float
    num_tokens: int
    num_trained_tokens: float
    records: Sequence[TokenRow]
    was_skipped: bool = False


def read_all(steps: Sequence[LaunchedStep]) -> list[tuple[float, float]]:
    """Mean loss and gradient norm of each; the device is read once."""
    figures = [figure.float() for each in steps for figure in (each.loss_sum, each.grad_norm)]
    numbers: list[float] = torch.stack(figures).tolist()
    return [
        (numbers[2 * i] / each.num_trained_tokens, numbers[2 * i + 1])
        for i, each in enumerate(steps)
    ]


class UpdateGuard:
    """Holds an optimizer back, on the device, from the first step that has gone wrong."""

    def __init__(self, optimizer: Any) -> None:
        """Args: the optimizer, or accelerate's wrapping of it."""
        self._optimizer = getattr(optimizer, "optimizer", optimizer)
        self._is_bad: Tensor | None = None

    @property
    def can_hold_back(self) -> bool:
        """Whether the optimizer takes the flag."""
        return bool(getattr(self._optimizer, "_step_supports_amp_scaling", False))

    def check(self, loss_sum: Tensor, grad_norm: Tensor) -> None:
        """Raises the flag if either is no number; before the optimizer's step."""
        is_bad = ~(loss_sum.isfinite() & grad_norm.isfinite())
        flag = is_bad.float()
        self._is_bad = flag if self._is_bad is None else torch.maximum(self._is_bad, flag)
        self._optimizer.found_inf = self._is_bad

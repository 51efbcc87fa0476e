"""When training has failed: a number that is none, a scale that is not found, a loss that flees.

Not a number: loss or gradient; the run stops before the optimizer's step.
Overflow: an fp16 scaler skips such a step and tries a smaller scale; 20 in a row are no scale's
fault.
Divergence: the loss stays above a threshold. It is the user's own; without one, it is three times
the lowest of the first 10 steps plus 2, for 20 steps in a row: worse by far than the base itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import Parameter

from ft.data.batches import TokenRow
from ft.runtime import Problem, TrainingError
from ft.train.checkpoint import TrainerState

MAX_SKIPPED_IN_A_ROW = 20
NUM_FIRST_LOSSES = 10
PATIENCE_WITH_THRESHOLD, PATIENCE_WITHOUT = 3, 20
_NUM_RECORDS_SHOWN = 8


class HealthCheck:
    """Raises ``TrainingError``, exit 4, and leaves the reason in the events."""

    def __init__(
        self,
        *,
        threshold: float | None,
        patience: int | None,
        tell: Callable[..., None],
    ) -> None:
        """The checks of one run.

        Args:
            threshold: Of the loss; None for the rule above.
            patience: Steps in a row above it that stop the run; None for 3, or 20.
            tell: Keeps an event.
        """
        default = PATIENCE_WITHOUT if threshold is None else PATIENCE_WITH_THRESHOLD
        self.threshold = threshold
        self.patience = patience or default
        self.tell = tell

    def require_finite(
        self, name: str, value: float, *, step: int, records: Sequence[TokenRow]
    ) -> None:
        """Stops before the optimizer's step: NaN must not reach the weights."""
        if math.isfinite(value):
            return
        origins = [str(getattr(record, "origin", "?")) for record in records]
        more = " ..." if len(origins) > _NUM_RECORDS_SHOWN else ""
        self._fail(
            step,
            f"the {name} of step {step} is {value}; the weights are as after step {step - 1}",
            fix="lower learning_rate, raise warmup_steps, or use bf16 instead of fp16; "
            "the records of the step are in events.jsonl",
            where=", ".join(origins[:_NUM_RECORDS_SHOWN]) + more,
            records=origins,
        )

    def require_finite_weights(self, parameters: Sequence[Parameter], *, step: int) -> None:
        """Stops before a checkpoint that nobody could go on from."""
        checks = [parameter.detach().isfinite().all() for parameter in parameters]
        if not bool(torch.stack(checks).all()):
            self._fail(
                step,
                f"the weights after step {step} are not all numbers; they are not saved",
                fix="lower learning_rate; the newest checkpoint is as it was",
            )

    def note_step(
        self, state: TrainerState, loss: float, was_skipped: bool, *, step: int | None = None
    ) -> None:
        """Counts a step that is done, the last one unless another is named; ``state`` counts."""
        step = state.step if step is None else step
        if was_skipped:
            state.num_skipped_steps += 1
            state.num_skipped_in_a_row += 1
        else:
            state.num_skipped_in_a_row = 0
        if state.num_skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            self._fail(
                step,
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row overflowed in fp16, up to {step}",
                fix="use bf16: true instead of fp16, or lower learning_rate",
            )
        self._note_loss(state, loss, step)

    def _note_loss(self, state: TrainerState, loss: float, step: int) -> None:
        if self.threshold is not None:
            threshold, usual = self.threshold, "loss_watchdog_threshold"
        elif step <= NUM_FIRST_LOSSES:
            state.lowest_first_loss = min(loss, state.lowest_first_loss or loss)
            return
        else:
            lowest = state.lowest_first_loss or 0.0
            threshold = 3 * lowest + 2
            usual = f"the lowest of the first {NUM_FIRST_LOSSES} was {lowest:.4g}"
        is_high = loss > threshold
        state.num_high_losses_in_a_row = state.num_high_losses_in_a_row + 1 if is_high else 0
        if state.num_high_losses_in_a_row >= self.patience:
            self._fail(
                step,
                f"the run diverged: the loss of step {step} is {loss:.4g}, the last of "
                f"{self.patience} in a row above {threshold:.4g} ({usual})",
                fix="lower learning_rate or raise warmup_steps; --loss-watchdog-threshold and "
                "--loss-watchdog-patience say otherwise when to stop",
            )

    def _fail(self, step: int, what: str, *, fix: str, where: str = "", **values: Any) -> None:
        self.tell("failed", step=step, what=what, **values)
        raise TrainingError(Problem(what, where=where, fix=fix))

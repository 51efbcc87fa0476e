"""When to evaluate, when to save: steps, shares and epochs brought to one form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ft.spec import EvaluationSpec, OutputSpec

_TIMES_A_RUN = 10


@dataclass(frozen=True)
class Cadence:
    """Every N steps, at each epoch's end, or only at the end of the run."""

    every_steps: int | None = None
    at_epoch_end: bool = False

    def is_due(self, step: int, steps_per_epoch: int | None) -> bool:
        """Whether it is due after the given number of completed steps."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return self.at_epoch_end and steps_per_epoch is not None and step % steps_per_epoch == 0

    def num_due(self, first: int, last: int, steps_per_epoch: int | None) -> int:
        """How often it is due in these steps, both included; the last one always counts."""
        due = sum(self.is_due(step, steps_per_epoch) for step in range(first, last))
        return due + (first <= last)


def evaluation_cadence(
    spec: EvaluationSpec, num_steps: int, steps_per_epoch: int | None
) -> Cadence:
    """How often to evaluate; nothing said means once an epoch (a stream: a tenth of the run)."""
    return _cadence(
        spec.eval_steps, spec.evals_per_epoch, spec.eval_strategy, num_steps, steps_per_epoch
    )


def checkpoint_cadence(spec: OutputSpec, num_steps: int, steps_per_epoch: int | None) -> Cadence:
    """How often to write checkpoints; nothing said means once an epoch (a stream: as above)."""
    return _cadence(
        spec.save_steps, spec.saves_per_epoch, spec.save_strategy, num_steps, steps_per_epoch
    )


def _cadence(
    steps: float | None,
    per_epoch: int | None,
    strategy: Literal["steps", "epoch", "no"] | None,
    num_steps: int,
    steps_per_epoch: int | None,
) -> Cadence:
    if strategy == "no":
        return Cadence()
    if steps is not None:
        return Cadence(math.ceil(steps * num_steps) if steps < 1 else int(steps))
    if steps_per_epoch is None:  # nobody knows where an epoch ends
        return Cadence(math.ceil(num_steps / _TIMES_A_RUN))
    if per_epoch is not None:
        return Cadence(math.ceil(steps_per_epoch / per_epoch))
    return Cadence(at_epoch_end=True)

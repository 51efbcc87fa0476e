"""The learning rate's course over a run, by the dialect's names.

    transformers' own     linear, cosine, cosine_with_restarts, polynomial, constant,
                          constant_with_warmup, inverse_sqrt, cosine_with_min_lr,
                          cosine_warmup_with_min_lr, warmup_stable_decay
    torch's               one_cycle
    here                  rex; cosine with cosine_min_lr_ratio, cosine_constant_lr_ratio or
                          lr_quadratic_warmup

Ours agree with axolotl's step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from transformers import get_scheduler

from ft.runtime.errors import Problem, UserError
from ft.spec import TrainingSpec

_Factor = Callable[[int], float]
"""Completed steps -> the share of the peak rate for the next one."""


def build_schedule(spec: TrainingSpec, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The learning rate's course over the run, advanced once an optimizer step.

    Raises:
        UserError: lr_scheduler_kwargs lacks what the schedule needs, or has what it does not know.
    """
    num_warmup = num_warmup_steps(spec, num_steps)
    if factor := _own_factor(spec, num_warmup, num_steps):
        return LambdaLR(optimizer, factor)
    options: dict[str, Any] = dict(spec.lr_scheduler_kwargs)
    try:
        if spec.lr_scheduler == "one_cycle":
            options = {"pct_start": num_warmup / num_steps, "anneal_strategy": "cos", **options}
            return OneCycleLR(
                optimizer, max_lr=spec.learning_rate, total_steps=num_steps, **options
            )
        schedule: LRScheduler = get_scheduler(
            spec.lr_scheduler,
            optimizer,
            num_warmup_steps=num_warmup,
            num_training_steps=num_steps,
            scheduler_specific_kwargs=options,
        )
        return schedule
    except (TypeError, ValueError) as error:
        fix = "see the schedule's own arguments in the documentation of transformers or torch"
        raise UserError(
            Problem(f"lr_scheduler_kwargs of {spec.lr_scheduler}: {error}", fix=fix)
        ) from error


def num_warmup_steps(spec: TrainingSpec, num_steps: int) -> int:
    """Warm-up in optimizer steps, from warmup_steps or warmup_ratio (a share is rounded up)."""
    if spec.warmup_steps is None:
        return math.ceil((spec.warmup_ratio or 0.0) * num_steps)
    if spec.warmup_steps >= 1:
        return int(spec.warmup_steps)
    return math.ceil(spec.warmup_steps * num_steps)


def _own_factor(spec: TrainingSpec, num_warmup: int, num_steps: int) -> _Factor | None:
    """Of the schedules that neither library has; None for the others."""
    least = spec.cosine_min_lr_ratio or 0.0
    if spec.lr_scheduler == "rex":
        return _rex(num_warmup, num_steps, least)
    if spec.lr_scheduler != "cosine":
        return None
    if spec.lr_quadratic_warmup:
        return _cosine(num_warmup, num_steps, warmup_power=2)
    if not least:
        return None
    share = spec.cosine_constant_lr_ratio
    last = int(num_steps * share) if share else num_steps
    return _cosine(num_warmup, last, least=least)


def _cosine(num_warmup: int, last: int, *, least: float = 0.0, warmup_power: int = 1) -> _Factor:
    """A rise, half a cosine down to ``least`` at step ``last``, then constant."""

    def factor(step: int) -> float:
        if step < num_warmup:
            return float((step / num_warmup) ** warmup_power)
        progress = (min(step, last) - num_warmup) / max(1, last - num_warmup)
        return float(least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress)))

    return factor


def _rex(num_warmup: int, num_steps: int, least: float) -> _Factor:
    """Reflected exponential, https://arxiv.org/abs/2107.04197: slow at first, steep at the end.

    It counts the step that is about to be taken, so it begins above zero and ends on ``least``.
    """
    num_falling = num_steps - num_warmup

    def factor(step: int) -> float:
        if step + 1 <= num_warmup:
            return (step + 1) / num_warmup
        if step + 1 >= num_steps:
            return least
        rest = (num_steps - step - 1) / num_falling
        return least + (1 - least) * rest / (0.1 + 0.9 * rest)

    return factor

"""The fastest way to run that fits: how much to recompute, what to keep, how large a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ft.plan.cards import Card
from ft.plan.memory import (
    Choice,
    LossNeed,
    MemoryParts,
    OptimizerNeed,
    PassSize,
    peak_memory,
)
from ft.plan.shape import ModelShape
from ft.plan.speed import StepWork, step_time_s


@dataclass(frozen=True)
class RunNeed:
    """All that a plan depends on, the machine aside."""

    model: ModelShape
    optimizer: OptimizerNeed
    loss: LossNeed
    work: StepWork
    longest_row: int
    """Tokens of the longest row; a pass holds one at least."""
    pass_tokens: int
    """What the config allows a pass: micro_batch_size rows of sequence_len."""
    step_tokens: int
    """Of the largest optimizer step; no pass holds more."""
    trained_share: float
    """Of a pass's tokens, at most."""
    is_flat: bool
    """Records end to end; padded passes cannot be larger than micro_batch_size rows."""
    is_compiled: bool


@dataclass(frozen=True)
class Budget:
    """What there is."""

    memory_bytes: float
    """For torch to allocate: the card less what is outside of torch's count, and the margin."""
    card: Card | None
    """Its rates; None where they are unknown: then less recomputed is faster."""
    is_cuda: bool = True


@dataclass(frozen=True)
class Planned:
    """A choice and what comes of it."""

    choice: Choice
    memory: MemoryParts
    step_time_s: float | None


Recompute = bool | str
"""The key's value: True = where memory asks for it, "always", False = never."""


def choose(need: RunNeed, budget: Budget, recompute: Recompute) -> Planned | None:
    """The fastest that fits; None if nothing does.

    Args:
        need: What is run.
        budget: What there is.
        recompute: What may be recomputed.
    """
    fitting = [
        planned(need, budget, choice)
        for choice in _candidates(need, budget, recompute)
        if fits(need, budget, choice)
    ]
    return min(fitting, key=lambda plan: _cost(need, plan), default=None)


def planned(need: RunNeed, budget: Budget, choice: Choice) -> Planned:
    """What comes of a choice."""
    time_s = None
    if budget.card is not None:
        time_s = step_time_s(
            need.model, choice, need.work, budget.card, is_compiled=need.is_compiled
        )
    return Planned(choice, memory_of(need, choice, is_cuda=budget.is_cuda), time_s)


def memory_of(need: RunNeed, choice: Choice, *, is_cuda: bool = True) -> MemoryParts:
    """Its peak."""
    return peak_memory(
        need.model,
        choice,
        pass_size(need, choice),
        optimizer=need.optimizer,
        loss=need.loss,
        is_cuda=is_cuda,
    )


def pass_size(need: RunNeed, choice: Choice) -> PassSize:
    """The largest pass that comes with a choice."""
    tokens = max(min(choice.pass_tokens, need.step_tokens), need.longest_row)
    num_passes = 1 if tokens >= need.step_tokens else 2
    return PassSize(tokens, round(tokens * need.trained_share), num_passes)


def fits(need: RunNeed, budget: Budget, choice: Choice) -> bool:
    """Whether the peak is within the budget."""
    return memory_of(need, choice, is_cuda=budget.is_cuda).total <= budget.memory_bytes


def least(need: RunNeed, recompute: Recompute) -> Choice:
    """The choice that takes least memory of those that are allowed."""
    counts = _counts(len(need.model.layers), recompute)
    choices = [Choice(count, 0, _sizes(need)[-1]) for count in reversed(counts)]
    return min(choices, key=lambda choice: memory_of(need, choice).total)


def _candidates(need: RunNeed, budget: Budget, recompute: Recompute) -> Iterator[Choice]:
    """For each size and number of recomputed layers, the most copies that fit."""
    num_layers = len(need.model.layers)
    can_keep = any(layer.weights.copy_bytes for layer in need.model.layers)
    for tokens in _sizes(need):
        for num_recomputed in _counts(num_layers, recompute):
            choice = Choice(num_recomputed, 0, tokens)
            if not can_keep:
                yield choice
                continue
            yield replace(choice, num_kept=_most(num_layers, _is_kept_room(need, budget, choice)))
    if need.is_flat and need.step_tokens > need.pass_tokens and recompute != "always":
        yield Choice(0, num_layers if can_keep else 0, need.step_tokens)  # where it is free


def _is_kept_room(need: RunNeed, budget: Budget, choice: Choice) -> Callable[[int], bool]:
    return lambda count: fits(need, budget, replace(choice, num_kept=count))


def _most(highest: int, fits_with: Callable[[int], bool]) -> int:
    """The largest number that fits, by bisection; 0 whether or not that fits."""
    low, high = 0, highest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits_with(middle) else (low, middle - 1)
    return low


def _counts(num_layers: int, recompute: Recompute) -> Sequence[int]:
    if recompute == "always":
        return [num_layers]
    return range(num_layers + 1) if recompute else [0]


def _sizes(need: RunNeed) -> list[int]:
    """Tokens of a pass, from what the config allows by halves down to one row."""
    sizes = [need.pass_tokens]
    while sizes[-1] // 2 >= need.longest_row:
        sizes.append(sizes[-1] // 2)
    if sizes[-1] > need.longest_row:
        sizes.append(need.longest_row)
    return sizes


def _cost(need: RunNeed, plan: Planned) -> tuple[float, ...]:
    """What is smaller is better: time; where it is unknown, what would take it."""
    choice = plan.choice
    passes = max(1.0, need.work.num_tokens / choice.pass_tokens)
    unknown = passes * (1 + choice.num_recomputed / (3 * max(len(need.model.layers), 1)))
    unknown -= choice.num_kept / 1000
    time_s = unknown if plan.step_time_s is None else round(plan.step_time_s, 4)
    return time_s, choice.num_recomputed, -choice.num_kept, passes

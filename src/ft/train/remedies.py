"""What to change when a run does not fit: the cheapest change that would, with its size.

Changes are tried from those that leave the results alone to those that train something else, each
one on top of nothing, then together with the one before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from ft.model import Hardware
from ft.plan import CARDS, Budget, choose, least, planned
from ft.runtime.errors import MachineError, Problem
from ft.runtime.sizes import memory_size
from ft.spec import RunSpec
from ft.spec.methods import can_recompute, in_four_bits
from ft.spec.runspec import sections_of_keys
from ft.train.workload import NOT_COUNTED, Rows, need_of, recompute_of

_FEWEST_TOKENS = 256
_IN_8_BITS = {"lion_32bit": "lion_8bit", "paged_lion_32bit": "paged_lion_8bit"}
_SPARING = ("8bit", "4bit", "sgd", "adafactor")
_AMOUNT = re.compile(r"ried to allocate ([\d.]+ [KMG]iB|\d+ bytes)")

Change = dict[str, Any]


def cheapest_change(spec: RunSpec, rows: Rows, hardware: Hardware, budget: Budget) -> str:
    """The change in words, with the options to add; a larger card if there is none.

    Args:
        spec: The run that does not fit.
        rows: Its data.
        hardware: What it runs on.
        budget: What there is.
    """
    for words, change in _changes(spec, rows):
        peak = _peak_if_fits(with_keys(spec, change), rows, hardware, budget)
        if peak is not None:
            return f"{words}: {_options(change)} (peak about {memory_size(peak)})"
    return _larger_card(spec, rows, hardware)


def cheapest_change_of_running(
    spec: RunSpec, rows: Rows, hardware: Hardware, budget: Budget
) -> str | None:
    """The same for a run whose plan turned out to be too large; None if no change is small enough.

    Every layer is recomputed first: what a change sets free, the next plan would else fill again.

    Args:
        spec: The run.
        rows: Its data.
        hardware: What it runs on.
        budget: What the change has to fit in: less than the plan that was too large.
    """
    first: Change = {}
    if spec.training.gradient_checkpointing != "always" and can_recompute(spec.adapter.adapter):
        first = {"gradient_checkpointing": "always"}
    alone = [("the same results, slower", first)] if first else []
    for words, change in chain(alone, _changes(with_keys(spec, first), rows)):
        together = {**first, **change}
        peak = _peak_if_fits(with_keys(spec, together), rows, hardware, budget)
        if peak is not None:
            return f"{words}: {_options(together)} (peak about {memory_size(peak)})"
    return None


def out_of_memory(spec: RunSpec, error: Exception) -> MachineError:
    """The cheapest change that lowers the peak, results unchanged if possible; without its size."""
    training, adapter = spec.training, spec.adapter.adapter
    if training.micro_batch_size > 1:
        half = training.micro_batch_size // 2
        steps = training.gradient_accumulation_steps * training.micro_batch_size // half
        options = f"--micro-batch-size {half} --gradient-accumulation-steps {steps}"
        fix = f"same results in less memory: {options}"
    elif training.gradient_checkpointing is False and can_recompute(adapter):
        fix = "same results in less memory, about a third slower: --gradient-checkpointing true"
    elif adapter is None:
        fix = "train an adapter instead: --adapter qlora --load-in-4bit true"
    elif not spec.model.load_in_4bit and (there := in_four_bits(adapter)):
        fix = f"hold the base in 4 bits: --adapter {there} --load-in-4bit true"
    else:
        fix = f"shorter records: --sequence-len {spec.data.sequence_len // 2}"
    return ran_out(error, fix)


def ran_out(error: Exception, fix: str) -> MachineError:
    """What to say of an allocation that failed."""
    asked = _AMOUNT.search(str(error))
    what = f"{asked[1]} more were asked for" if asked else str(error).split(". ")[0]
    return MachineError(Problem(f"out of memory: {what}", fix=fix))


def with_keys(spec: RunSpec, change: Change) -> RunSpec:
    """The spec with other values of some keys."""
    sections = sections_of_keys()
    updates: dict[str, Change] = {}
    for key, value in change.items():
        updates.setdefault(sections[key], {})[key] = value
    return spec.model_copy(
        update={
            section: getattr(spec, section).model_copy(update=values)
            for section, values in updates.items()
        }
    )


def _changes(spec: RunSpec, rows: Rows) -> Iterator[tuple[str, Change]]:
    training, adapter = spec.training, spec.adapter.adapter
    if training.gradient_checkpointing is False and can_recompute(adapter):
        yield "the same results, slower", {"gradient_checkpointing": True}
    if training.micro_batch_size > 1:
        count = training.micro_batch_size * training.gradient_accumulation_steps
        smaller = {"micro_batch_size": 1, "gradient_accumulation_steps": count}
        yield "the same results in smaller passes", smaller
    frugal: Change = {}
    if not any(word in training.optimizer for word in _SPARING):
        frugal = {"optimizer": _IN_8_BITS.get(training.optimizer, "adamw_bnb_8bit")}
        yield "the optimizer's state in 8 bits", frugal
    if adapter is None and spec.precision.bf16 != "full":
        halved = {**frugal, "bf16": "full"}
        yield "weights and gradients in bf16", halved
    there = in_four_bits(adapter)
    if not spec.model.load_in_4bit and there is not None:
        words = "an adapter on a base" if adapter is None else "the base"
        yield f"{words} in 4 bits", {"adapter": there, "load_in_4bit": True}
    tokens = min(spec.data.sequence_len, rows.longest) // 2
    while tokens >= _FEWEST_TOKENS:
        yield "shorter records", {"sequence_len": tokens}
        tokens //= 2


def _peak_if_fits(spec: RunSpec, rows: Rows, hardware: Hardware, budget: Budget) -> float | None:
    shorter = spec.data.sequence_len
    if rows.longest > shorter:
        count = rows.sum_of_longest // rows.longest
        rows = Rows(
            rows.num_rows, shorter, min(rows.mean, shorter), min(rows.mean_length, shorter),
            rows.trained_share, shorter * max(count, 1),
        )  # fmt: skip
    try:
        found = choose(need_of(spec, rows, hardware), budget, recompute_of(spec))
    except NOT_COUNTED:
        return None
    return None if found is None else found.memory.total


def _larger_card(spec: RunSpec, rows: Rows, hardware: Hardware) -> str:
    try:
        need = need_of(spec, rows, hardware)
    except NOT_COUNTED:
        return "a card with more memory, or a smaller base model"
    peak = planned(need, Budget(0.0, None), least(need, recompute_of(spec))).memory.total
    larger = sorted(
        (c for c in CARDS if c.memory_bytes * 0.95 > peak), key=lambda c: c.memory_bytes
    )
    needed = f"{memory_size(peak)} are needed at least"
    return f"{needed}: a {larger[0].name} has them" if larger else f"{needed}: no one card has them"


def _options(change: Change) -> str:
    return " ".join(
        f"--{key.replace('_', '-')} {str(value).lower() if isinstance(value, bool) else value}"
        for key, value in change.items()
    )

"""A plan as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ft.cli.words import duration
from ft.runtime.sizes import memory_size

if TYPE_CHECKING:
    from ft.cli.outlook import Outlook
    from ft.train.workload import Rows

_BAR_WIDTH = 30
_NAMES = {
    "weights": "base weights",
    "copies": "dequantized copies",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "loss": "head and loss",
    "workspace": "workspace",
}


def plan_lines(outlook: Outlook, rows: Rows) -> Iterator[str]:
    """Memory by part, the plan in words, time and cost."""
    yield f"gpu:    {outlook.card}, {memory_size(outlook.memory_bytes)}"
    count = "a stream" if rows.num_rows is None else f"{rows.num_rows:,} rows"
    yield f"data:   {count} of {rows.mean:,.0f} tokens, the longest of {rows.longest:,}"
    plan = outlook.plan
    if plan is None:
        if outlook.least is not None:
            yield "the least that it takes, every layer recomputed where that may be:"
            yield from _memory_lines(asdict(outlook.least.memory), outlook.memory_bytes)
        return
    if plan.expected is not None:
        yield "memory at the peak:"
        yield from _memory_lines(asdict(plan.expected.memory), plan.available_bytes)
    yield from words_of_plan(plan.to_json())
    yield from _time_lines(outlook)


def _memory_lines(parts: dict[str, float], available: float) -> Iterator[str]:
    total = sum(parts.values())
    for name, size in parts.items():
        bar = "#" * round(_BAR_WIDTH * size / max(available, total))
        yield f"  {_NAMES[name]:<20}{memory_size(size):>10}  {bar}".rstrip()
    yield f"  {'together':<20}{memory_size(total):>10}  of {memory_size(available)}"


def words_of_plan(plan: dict[str, Any]) -> list[str]:
    """The plan in a line or two, from its JSON."""
    layers, recomputed = plan["num_layers"], plan["num_recomputed"]
    asked = plan["made_for"]["gradient_checkpointing"]
    what = {
        "always": f"all {layers} layers are recomputed, as asked for",
        False: "no layer is recomputed, as asked for",
    }.get(asked, f"{recomputed} of {layers} layers need recomputing here")
    copies = (plan["parts"] or {}).get("copies", 0)
    kept = f", {plan['num_kept']} keep their dequantized weights" if copies else ""
    size = f", up to {plan['pass_tokens']:,} tokens a pass"
    peak = ""
    if plan["peak_bytes"] is not None:
        peak = f"; {memory_size(plan['peak_bytes'])} of {memory_size(plan['available_bytes'])}"
    return [f"plan: {what}{kept}{size}{peak}", *[f"note: {words}" for words in plan["words"]]]


def _time_lines(outlook: Outlook) -> Iterator[str]:
    step_s = outlook.step_time_s
    if step_s is None:
        yield "time:   not known for this device"
        return
    rate = outlook.tokens_per_step / step_s
    tokens = f"{outlook.tokens_per_step:,.0f} tokens"
    yield f"time:   {step_s:.3g} s a step of {tokens}, {rate:,.0f} tokens/s"
    parts = []
    if (epoch_s := outlook.time_s(outlook.steps_per_epoch)) is not None:
        parts.append(f"an epoch {duration(epoch_s)}")
    if (total_s := outlook.time_s(outlook.num_steps)) is not None:
        parts.append(f"all {outlook.num_steps:,} steps {duration(total_s)}")
    if outlook.cost is not None:
        parts.append(f"cost {outlook.cost:.2f} at {outlook.price_per_hour:g} an hour")
    if parts:
        yield f"        {', '.join(parts)}"


def card_table(outlooks: Sequence[Outlook]) -> list[str]:
    """A row a card."""
    header = ("gpu", "memory", "peak", "recomputed", "tokens a pass", "tokens/s", "time", "cost")
    rows = [header, *(_row(outlook) for outlook in outlooks)]
    keeps = [any(row[i] for row in rows[1:]) for i in range(len(header))]
    shown = [[cell for cell, keep in zip(row, keeps, strict=True) if keep] for row in rows]
    return list(_aligned(shown))


def _row(outlook: Outlook) -> tuple[str, ...]:
    size = memory_size(outlook.memory_bytes)
    if outlook.plan is None:
        least = outlook.least
        fits = "no" if least is None else f"no: {memory_size(least.memory.total)} at least"
        return (outlook.card, size, fits, "", "", "", "", "")
    plan = outlook.plan.to_json()
    step_s, total_s = outlook.step_time_s, outlook.time_s(outlook.num_steps)
    return (
        outlook.card,
        size,
        "?" if plan["peak_bytes"] is None else memory_size(plan["peak_bytes"]),
        f"{plan['num_recomputed']} of {plan['num_layers']}",
        f"{plan['pass_tokens']:,}",
        "" if step_s is None else f"{outlook.tokens_per_step / step_s:,.0f}",
        "" if total_s is None else duration(total_s),
        "" if outlook.cost is None else f"{outlook.cost:.2f}",
    )


def _aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as they need."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  " + "  ".join(cells).rstrip()

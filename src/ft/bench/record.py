"""What was measured, as one JSON object: figures, versions, the command, the date."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from ft.bench.limits import AT_HAND
from ft.bench.measure import Measured
from ft.bench.workload import FORMULA
from ft.runtime import describe_environment

FORMAT = 1


def record_of(measured: Measured, command: str) -> dict[str, Any]:
    """A measurement for a file of `benchmarks/` and for the terminal.

    Args:
        measured: From ``measure``.
        command: As it was typed.

    Returns:
        Figures: times in seconds, memory in bytes, rates a second, shares from 0 to 1.
    """
    clock, shape = measured.clock, measured.pass_shape
    steps = clock.counted_steps()
    num_tokens = sum(step.num_tokens for step in steps)
    num_passes = sum(step.num_passes for step in steps)
    tokens_per_s = num_tokens / clock.wall_time_s
    arithmetic = measured.workload.arithmetic(shape) * num_passes
    limits = measured.device_limits
    ceilings = (
        {} if measured.workload.has_experts else measured.pass_limits.ceilings(shape.num_tokens)
    )
    return {
        "format": FORMAT,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command,
        "environment": describe_environment(),
        "device": _device(measured),
        "model": _without_event(measured.facts["model"], "hardware"),
        "plan": _without_event(measured.facts["plan"]),
        "records": measured.records,
        "num_warmup_steps": clock.num_warmup_steps,
        "num_steps": len(steps),
        "tokens_per_s": tokens_per_s,
        "trained_tokens_per_s": sum(step.num_trained_tokens for step in steps) / clock.wall_time_s,
        "step_time_s": quantiles([step.time_s for step in steps]),
        "tokens_per_step": num_tokens / len(steps),
        "passes_per_step": num_passes / len(steps),
        "pass": dataclasses.asdict(shape) | {"record_length": shape.record_length},
        "peak_memory_bytes": clock.peak_bytes,
        "loading_peak_memory_bytes": clock.loading_peak_bytes,
        "mfu": arithmetic / clock.wall_time_s / limits.product_flops,
        "mfu_formula": FORMULA,
        "limits": dataclasses.asdict(limits) | {"pass": dataclasses.asdict(measured.pass_limits)},
        "ceilings_tokens_per_s": ceilings,
        "share_of_ceiling": tokens_per_s / ceilings[AT_HAND] if ceilings else None,
        "parts": _parts(measured),
        "kernels": _kernels(measured),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 20th, 50th and 80th percentile; of a single value, that value."""
    if len(values) < 2:
        return dict.fromkeys(("p20", "p50", "p80"), values[0])
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {"p20": cuts[1], "p50": cuts[4], "p80": cuts[7]}


def _device(measured: Measured) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": measured.facts["model"]["hardware"],
        "kind": measured.clock.device.type,
    }
    if measured.clock.device.type == "cuda":
        card = torch.cuda.get_device_properties(measured.clock.device)
        found |= {
            "memory_bytes": card.total_memory,
            "capability": [card.major, card.minor],
            "cuda": torch.version.cuda,
        }
    return found


def _without_event(event: dict[str, Any], *others: str) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "time", *others)}


def _parts(measured: Measured) -> dict[str, float]:
    """The share of each part in the time of the counted steps."""
    steps = measured.clock.counted_steps()
    total_s = sum(step.time_s for step in steps)
    names = dict.fromkeys(part for step in steps for part in step.parts_s)
    return {name: sum(step.parts_s.get(name, 0.0) for step in steps) / total_s for name in names}


def _kernels(measured: Measured) -> dict[str, Any] | None:
    """Of the profiled step, against the median of the counted ones."""
    kernels = measured.clock.kernels
    if kernels is None:
        return None
    median_s = statistics.median(step.time_s for step in measured.clock.counted_steps())
    return {
        "by_kind_s": kernels.by_kind_s,
        "total_s": kernels.total_s,
        "share_of_step": kernels.total_s / median_s,
        "num_kernels": kernels.num_kernels,
        "longest": [
            {"name": name, "time_s": time_s, "count": count}
            for name, time_s, count in kernels.longest
        ],
    }

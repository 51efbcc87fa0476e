"""Compares the loss curves of two runs: python benchmarks/curves.py RUN_A RUN_B."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def steps(run: str) -> list[dict[str, float]]:
    """The run's step events."""
    lines = map(json.loads, (Path(run) / "events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "step"]


if __name__ == "__main__":
    a, b = steps(sys.argv[1]), steps(sys.argv[2])
    gaps = [abs(x["loss"] - y["loss"]) / x["loss"] for x, y in zip(a, b, strict=True)]
    print(f"{len(gaps)} steps: largest relative loss difference {max(gaps):.2e}")
    for name, run in ((sys.argv[1], a), (sys.argv[2], b)):
        speed = statistics.median(step["tokens_per_s"] for step in run[3:])
        step_time = statistics.median(step["step_time_s"] for step in run[3:])
        peak = max(step["peak_memory_bytes"] for step in run) / 2**30
        print(f"{name}: {speed:,.0f} tok/s, {step_time:.3f} s a step, peak {peak:.2f} GiB")

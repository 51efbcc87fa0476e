"""Does a run hold more and more? Its resident memory at every step, and the slope of that."""

from __future__ import annotations

import json
import os
import statistics
from itertools import combinations
from pathlib import Path

from programme.bench import KINDS, Bench, Outcome
from programme.forks import Fork
from runs import run

NUM_STEPS, FIRST_STEPS = 5000, 1000
MOST_MB_A_THOUSAND_STEPS = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SPACING = 20


def memory_growth(bench: Bench, kind: str, num_steps: int = NUM_STEPS) -> Outcome:
    """The slope after the first thousand steps, with checkpoints and evaluation at their times."""
    keys = {"save_steps": 50, "save_total_limit": 2, "eval_steps": 100, "max_steps": num_steps}
    config = bench.config(f"memory-{kind}", **KINDS[kind] | keys)
    path = config.with_name("resident.json")
    process = Fork(_train_and_look, config, path, output=config.with_name("said"))
    outcome = Outcome()
    outcome.expect(process.wait(3600) == 0, process.said())
    resident = {int(step): size for step, size in json.loads(path.read_text()).items()}
    slope = megabytes_a_thousand_steps(resident)
    outcome.expect(slope <= MOST_MB_A_THOUSAND_STEPS, f"grows by {slope:.3f} MB a 1,000 steps")
    outcome.counts["steps"] += len(resident)
    outcome.counts["slope_kb_a_thousand_steps"] += round(1000 * slope)
    bench.clear(config)
    return outcome


def megabytes_a_thousand_steps(resident: dict[int, int]) -> float:
    """The median of the slopes between any two points (Theil and Sen): single steps don't sway it.

    Args:
        resident: Step -> bytes.
    """
    points = [item for item in sorted(resident.items()) if item[0] > FIRST_STEPS][::_SPACING]
    slopes = [(b - a) / (n - m) for (m, a), (n, b) in combinations(points, 2)]
    return 1000 * statistics.median(slopes) / 1e6


def _train_and_look(config: Path, path: Path) -> None:
    resident: dict[int, int] = {}

    def on_event(event: dict) -> None:
        if event["event"] == "step":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident[event["step"]] = pages * _PAGE_BYTES

    run(config, on_event=on_event)
    path.write_text(json.dumps(resident))

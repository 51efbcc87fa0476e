"""Does a run hold more and more? What it holds and its resident memory, and the slopes of both.

What is held grows if anything is kept; resident memory also as allocators touch their pages for the
first time, which comes in single jumps of some hundred kilobytes, ever fewer of them.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import sys
from array import array
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from programme.bench import KINDS, Bench, Outcome
from programme.forks import Fork
from runs import run

NUM_STEPS, FIRST_STEPS = 5000, 1000
MOST_RESIDENT_MB = 0.1
MOST_HELD_MB = 0.1
MOST_HELD_OBJECTS = 200
"""A 1,000 steps, each; an object kept by every step would be 1,000."""
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SPACING = 20
_STEPS_BETWEEN_COLLECTIONS = 200


def memory_growth(bench: Bench, kind: str, num_steps: int = NUM_STEPS) -> Outcome:
    """The slopes after the first thousand steps, with checkpoints and evaluation at their times."""
    keys = {"save_steps": 50, "save_total_limit": 2, "eval_steps": 100, "max_steps": num_steps}
    config = bench.config(f"memory-{kind}", **KINDS[kind] | keys)
    path = config.with_name("memory.json")
    process = Fork(_train_and_look, config, path, num_steps, output=config.with_name("said"))
    outcome = Outcome()
    outcome.expect(process.wait(3600) == 0, process.said())
    told = json.loads(path.read_text())
    slopes = {
        name: slope_a_thousand_steps({int(step): amount for step, amount in amounts.items()})
        for name, amounts in told.items()
    }
    resident_mb, held_mb = slopes["resident"] / 1e6, slopes["held"] / 1e6
    for name, got, most in (
        ("MB resident", resident_mb, MOST_RESIDENT_MB),
        ("MB held", held_mb, MOST_HELD_MB),
        ("objects", slopes["objects"], MOST_HELD_OBJECTS),
    ):
        outcome.expect(got <= most, f"grows by {got:.3f} {name} a 1,000 steps, at most {most}")
    outcome.counts["steps"] += len(told["resident"])
    outcome.counts["slope_kb_a_thousand_steps"] += round(1000 * resident_mb)
    outcome.counts["slope_held_kb_a_thousand_steps"] += round(1000 * held_mb)
    outcome.counts["slope_objects_a_thousand_steps"] += round(slopes["objects"])
    bench.clear(config)
    return outcome


def slope_a_thousand_steps(amounts: Mapping[int, float]) -> float:
    """The median of the slopes between any two points (Theil and Sen): single steps don't sway it.

    Args:
        amounts: Step -> bytes, or whatever is counted.
    """
    points = [item for item in sorted(amounts.items()) if item[0] > FIRST_STEPS]
    points = points[:: max(1, _SPACING * len(points) // (NUM_STEPS - FIRST_STEPS))]
    slopes = [(b - a) / (n - m) for (m, a), (n, b) in combinations(points, 2)]
    return 1000 * statistics.median(slopes)


class _HeapFigures(ctypes.Structure):
    """Glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


class _Memory:
    """Amounts by step; its own storage is there before the first step, or it would be measured."""

    def __init__(self, num_steps: int) -> None:
        self._resident = array("q", [1]) * (num_steps + 1)
        self._held = array("q", [1]) * (num_steps + 1)
        self._objects = array("q", [1]) * (num_steps + 1)
        self._num_steps = num_steps
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._heap = ctypes.CDLL(None).mallinfo2
        self._heap.restype = _HeapFigures

    def look(self, step: int) -> None:
        """Notes what there is now."""
        self._resident[step] = int(os.pread(self._statm, 200, 0).split()[1]) * _PAGE_BYTES
        if step % _STEPS_BETWEEN_COLLECTIONS == 0:
            gc.collect()
            heap = self._heap()
            self._held[step] = heap.uordblks + heap.hblkhd
            self._objects[step] = sys.getallocatedblocks()

    def write(self, path: Path) -> None:
        """As JSON: what -> step -> amount."""
        between = _STEPS_BETWEEN_COLLECTIONS
        collected = range(between, self._num_steps + 1, between)
        told = {
            "resident": {step: self._resident[step] for step in range(1, self._num_steps + 1)},
            "held": {step: self._held[step] for step in collected},
            "objects": {step: self._objects[step] for step in collected},
        }
        path.write_text(json.dumps(told))


def _train_and_look(config: Path, path: Path, num_steps: int) -> None:
    memory = _Memory(num_steps)

    def on_event(event: dict) -> None:
        if event["event"] == "step":
            memory.look(event["step"])

    run(config, on_event=on_event)
    memory.write(path)

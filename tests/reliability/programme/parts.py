"""The whole programme, part by part, and its ledger: what was done is not done again.

{"part": "kills", "trial": ["lora", 0], "counts": {"kills": 5, ...}, "faults": [], ...}
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from programme import (
    damage,
    disks,
    doubles,
    kills,
    lost,
    memory,
    mutants,
    resumes,
    saves,
    signals,
    yamls,
)
from programme.bench import KINDS, Bench, Outcome
from programme.forks import end_all

Trial = Sequence[Any]
"""A trial's arguments: its name in the ledger."""


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    name: str
    title: str
    function: Callable[..., Outcome]
    trials: Sequence[Trial]


def _each(*choices: Sequence[Any]) -> list[Trial]:
    """Every combination, the last choice going through slowest."""
    trials: list[Trial] = [[]]
    for options in reversed(choices):
        trials = [[option, *rest] for rest in trials for option in options]
    return trials


PARTS = [
    Part("kills", "kill -9 at random moments, five a run, run after run",
         kills.chain_of_kills, _each(list(KINDS), range(8))),
    Part("save_kills", "kill -9 while a checkpoint is written, one a run",
         kills.kill_in_a_save, _each(["lora", "full"], range(15))),
    Part("saves", "kill -9 at every system call of a save",
         saves.kills_at_every, _each(saves.CALLS)),
    Part("flushes", "order of fsync and rename", saves.order_of_flushes, [[]]),
    Part("resumes", "stopped after every step", resumes.resume_from_every_step, _each(list(KINDS))),
    Part("disks", "disk full in the middle of a run (tmpfs)",
         disks.full_disk, _each(["lora", "full", "nf4"], range(5))),
    Part("limits", "files that may not grow (RLIMIT_FSIZE)",
         disks.limited_files, _each(["lora", "full"], range(4))),
    Part("damage", "a byte changed, put in, bytes cut off, a file gone: each file of a checkpoint",
         damage.damaged_files, _each(list(KINDS))),
    Part("signals", "SIGTERM or SIGINT at random moments",
         signals.signal_at, _each(signals.MOMENTS, range(11))),
    Part("doubles", "a second run in the directory, then the first one killed",
         doubles.double_starts, _each(range(4))),
    Part("yamls", "wrong YAML files, generated",
         yamls.wrong_yamls, [[first, 100] for first in range(0, 1000, 100)]),
    Part("mutants", "faults planted in the source: does the suite fail?",
         mutants.is_caught, [*([name] for name in mutants.MUTANTS), ["none"]]),
    Part("lost", "one of two processes killed, stopped or raising",
         lost.chain_of_losses, _each(range(4))),
    Part("memory", "resident memory over 5,000 steps", memory.memory_growth, _each(["lora"])),
]  # fmt: skip

GPU_KEYS = {"adapter": "qlora", "load_in_4bit": True, "bf16": True, "deterministic": True}
"""Of all runs on a GPU: QLoRA, compiled as it is there, and to be equal to the last bit."""
GPU_PARTS = [
    Part("kills", "kill -9 at random moments, five a run, run after run",
         kills.chain_of_kills, _each(["nf4"], range(3))),
    Part("resumes", "stopped after every step",
         resumes.resume_from_every_step, _each(["nf4"], range(4), [4])),
    Part("signals", "SIGTERM or SIGINT at random moments",
         signals.signal_at, _each(signals.MOMENTS, range(2))),
    Part("lost", "one of two processes, a GPU each, killed, stopped or raising",
         lost.chain_of_losses, [[0]]),
]  # fmt: skip
"""What has another way to go wrong there: the card's own generator, kernels, NCCL."""


class Ledger:
    """A JSON-lines file: one line a trial."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """All that was done; a line cut short by a kill is no record."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def forget(self, part: str) -> None:
        """Has a part done again."""
        kept = [record for record in self.records() if record["part"] != part]
        self.path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def append(self, part: Part, trial: Trial, outcome: Outcome, wall_s: float) -> None:
        """Keeps what a trial came to."""
        record = {
            "part": part.name,
            "trial": list(trial),
            "counts": dict(outcome.counts),
            "faults": outcome.faults,
            "wall_s": round(wall_s, 1),
            "at": time.strftime("%Y-%m-%dT%H:%M:%S"),
        }
        with self.path.open("a+") as file:
            file.seek(max(file.tell() - 1, 0))
            is_cut = file.read(1) not in ("", "\n")
            file.write("\n" * is_cut + json.dumps(record) + "\n")


def share_of(parts: Sequence[Part], number: int, num_shares: int) -> list[Part]:
    """The parts with every ``num_shares``-th of their trials, from ``number`` on, 0 being first."""
    return [replace(part, trials=part.trials[number::num_shares]) for part in parts]


def run_parts(
    parts: Sequence[Part], bench: Bench, ledger: Ledger, names: Sequence[str]
) -> Iterator[str]:
    """Does what is not in the ledger yet; gives a line of progress a trial."""
    done = {json.dumps([record["part"], record["trial"]]) for record in ledger.records()}
    for part in parts:
        if names and part.name not in names:
            continue
        for number, trial in enumerate(part.trials, start=1):
            if json.dumps([part.name, list(trial)]) in done:
                continue
            started = time.monotonic()
            outcome = _try(part, bench, trial)
            wall_s = time.monotonic() - started
            ledger.append(part, trial, outcome, wall_s)
            what = f"{part.name} {number}/{len(part.trials)} {' '.join(map(str, trial))}"
            yield f"{what}: {_words(outcome.counts)} ({wall_s:.0f} s)"
            yield from (f"  FAULT {fault[:2000]}" for fault in outcome.faults)


def table(parts: Sequence[Part], ledger: Ledger) -> str:
    """What was done so far, as Markdown; parts that were not are named."""
    records = ledger.records()
    lines = ["| fault | trials | counts | faults | wall |", "|---|---:|---|---:|---:|"]
    for part in parts:
        own = [record for record in records if record["part"] == part.name]
        counts: Counter[str] = Counter()
        for record in own:
            counts.update(record["counts"])
        num_faults = sum(len(record["faults"]) for record in own)
        minutes = sum(record["wall_s"] for record in own) / 60
        cells = [part.title, f"{len(own)} of {len(part.trials)}"]
        cells += (
            [_words(counts), str(num_faults), f"{minutes:.1f} min"] if own else ["not run", "", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _try(part: Part, bench: Bench, trial: Trial) -> Outcome:
    try:
        return part.function(bench, *trial)
    except Exception as error:  # noqa: BLE001 - a trial that breaks off is a fault as well
        return Outcome(faults=[f"broke off: {type(error).__name__}: {error}"])
    finally:
        end_all()


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())

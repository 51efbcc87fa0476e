"""What trials have in common: a base, a folder to work in, runs to compare with, and an outcome."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft.runtime import RunDirectory
from ft.runtime.durable import is_staging, sha256_of
from ft.train.checkpoint import CheckpointFolder
from programme.forks import Fork, fork_ft
from runs import curve, events, write_config

LORA = {"lora_dropout": 0.1, "val_set_size": 3, "eval_steps": 2}
KINDS: dict[str, dict[str, Any]] = {
    "lora": LORA,
    "full": LORA | {"adapter": None, "lora_dropout": None, "learning_rate": 1e-3},
    "packed": LORA | {"sample_packing": True, "sequence_len": 128},
    "nf4": LORA | {"adapter": "qlora", "load_in_4bit": True},
}
"""Rows are not divisible by batch times accumulation; there is evaluation between the steps."""
EVERY_STEP = {"save_steps": 1, "save_total_limit": 2}


@dataclass
class Outcome:
    """What a trial, or several, came to."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """What must not be; in words."""

    def expect(self, holds: bool, fault: str, **counted: int) -> None:
        """Counts if it holds, else notes the fault."""
        if holds:
            self.counts.update(counted)
        else:
            self.faults.append(fault)
            self.counts.update(dict.fromkeys(counted, 0))


@dataclass(frozen=True)
class Bench:
    """Where trials are made."""

    folder: Path
    base: Path
    """A tiny Llama and its tokenizer."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """Of every config, whatever a trial asks for."""

    def config(self, name: str, **keys: Any) -> Path:
        """A config in a new folder of the bench; its run is in ``out`` beside it."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return write_config(folder, self.base, **(keys | self.keys))

    def reference(self, name: str, **keys: Any) -> Path:
        """The run directory of the config, trained without a stop; made once."""
        out = self.folder / f"reference-{name}" / "out"
        if not (out / "run.json").exists():
            self.config(out.parent.name, **keys)
        if RunDirectory(out).state != "finished":
            train_to_the_end(out.parent / "run.yml")
        return out

    def clear(self, config: Path) -> None:
        """Removes the folder of a config."""
        shutil.rmtree(config.parent)


def start(config: Path, *arguments: Any) -> Fork:
    """`ft train CONFIG`, in a process of its own."""
    return fork_ft("train", config, *arguments, output=config.with_name("said"))


def train_to_the_end(config: Path) -> None:
    """The same command again, which must end well."""
    process = start(config)
    assert process.wait() == 0, process.said()


class Life:
    """Follows one run through the lives of its processes, each ended by force but the last."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.committed = 0
        """The newest step of which the last process left a checkpoint."""
        self._num_begun = self._num_resumed = self._num_waiting = 0

    def has_begun(self) -> bool:
        """Whether the process of now has told of its start."""
        return self._told(b'"event": "start"') > self._num_begun

    def has_told_step(self, step: int) -> bool:
        """Whether any process has."""
        return self._told(b'"step": %d, "num_steps"' % step) > 0

    def end(self, outcome: Outcome) -> None:
        """The process has ended: did it go on where the one before it was, what did it leave?"""
        if self.has_begun():
            self._require_right_place(outcome)
        elif RunDirectory(self.out).state == "finished":  # when it was ended by force
            outcome.counts["done_already"] += self._num_waiting
            self._num_waiting = 0
        self._num_waiting += 1
        self.committed = self._require_last_commit(outcome)

    def _require_right_place(self, outcome: Outcome) -> None:
        at = events(self.out, "start")[-1]["step"]
        num_resumed = self._told(b'"event": "resumed"') - self._num_resumed
        self._num_begun += 1
        self._num_resumed += num_resumed
        outcome.expect(
            at == self.committed and num_resumed == bool(self.committed),
            f"went on from step {at}, committed was {self.committed}",
            resumes=self._num_waiting,
        )
        outcome.counts["steps_lost"] += self.committed - at
        self._num_waiting = 0

    def _require_last_commit(self, outcome: Outcome) -> int:
        folder = CheckpointFolder(self.out / "checkpoints", keep=None)
        steps = committed_steps(self.out)
        for step in steps:
            outcome.expect(folder.is_whole(step), f"the checkpoint of step {step} is not whole")
        newest = max(steps, default=0)
        told = max((event["step"] for event in events(self.out, "checkpoint")), default=0)
        known = max(told, self.committed)
        outcome.expect(newest >= known, f"of step {known} there was a checkpoint, now of {newest}")
        return newest

    def _told(self, what: bytes) -> int:
        path = self.out / "events.jsonl"
        return path.read_bytes().count(what) if path.exists() else 0


def committed_steps(out: Path) -> list[int]:
    """The steps of which there is a checkpoint, whole or not."""
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))


def require_equal_runs(outcome: Outcome, reference: Path, out: Path) -> None:
    """Every step once, every figure equal to the last bit, the same weights, nothing left over."""
    expected, got = curve(reference), curve(out)
    steps = [step for step, *_ in got]
    is_whole = steps == list(range(1, len(expected) + 1))
    outcome.expect(is_whole, f"steps {steps}", logs_whole=1)
    outcome.expect(got == expected, f"{_first_difference(expected, got)}", curves_equal=1)
    losses = [[e["eval_loss"] for e in events(each, "evaluation")] for each in (reference, out)]
    outcome.expect(losses[0] == losses[1], f"held-out losses {losses[1]}, not {losses[0]}")
    (weights,) = reference.glob("*model.safetensors")
    is_same = (out / weights.name).exists() and sha256_of(weights) == sha256_of(out / weights.name)
    outcome.expect(is_same, "the weights differ", weights_equal=1)
    left = [
        p.name for p in (*out.iterdir(), *(out / "checkpoints").iterdir()) if is_staging(p.name)
    ]
    outcome.expect(not left, f"left behind: {left}")


def _first_difference(expected: list[tuple], got: list[tuple]) -> str:
    for one, other in zip(expected, got, strict=False):
        if one != other:
            return f"{other}, not {one}"
    return f"{len(got)} steps, not {len(expected)}"

"""Checkpoints: whole or not there, checked when read, no pickle.

    checkpoints/step-000120/
      adapter_model.safetensors ...   the trained weights, by LoadedModel.save_weights
      optimizer.safetensors           every tensor of the optimizer's state
      trainer_state.json              the rest: position, schedule, scaler, best loss, ...
      manifest.json                   size and sha256 of every file, written last

A checkpoint is filled under a temporary name and renamed into place, so a folder called ``step-*``
was complete when it got its name. On reading, each file is compared with the manifest; a checkpoint
that fails is named and set aside (``broken-step-*``), and the one before it is used. Old ones are
removed only after a newer one has its name, never the best one, nor the one that the run went on
from.

No generator state is saved: before each pass, generators of every kind are put where (seed, step,
pass, process) says, and the order of the data follows from (seed, epoch); see loop.py. So the
position in the data is the step.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ft.model.host_copies import HostCopies
from ft.runtime import Problem, UserError
from ft.runtime.durable import remove, retire, sha256_of, staged_folder

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-\d+")
_STATE = "trainer_state.json"
_OPTIMIZER = "optimizer.safetensors"


@dataclass
class TrainerState:
    """Where the run stands; all of it is in every checkpoint."""

    step: int = 0
    """Completed optimizer steps."""
    num_records_seen: int = 0
    num_tokens_seen: int = 0
    num_skipped_steps: int = 0
    """Steps that the fp16 scaler skipped because of overflow."""
    num_skipped_in_a_row: int = 0
    lowest_first_loss: float | None = None
    """Of the steps that say what a usual loss is, see health.py."""
    num_high_losses_in_a_row: int = 0
    best_loss: float | None = None
    """Held-out loss of the best evaluation."""
    best_metric: float | None = None
    """What that evaluation was the best at: metric_for_best_model."""
    best_step: int | None = None
    num_evaluations_without_gain: int = 0
    is_stopped_early: bool = False
    train_time_s: float = 0.0
    feed_position: dict[str, Any] | None = None
    """Where the data stands, if the step number does not tell."""


@dataclass(frozen=True)
class Checkpoint:
    """One that was read back and found whole."""

    path: Path
    state: TrainerState
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any] | None


@dataclass(frozen=True)
class Snapshot:
    """A run as it stood after a step, on the host: what training does next changes none of it.

    The weights of a full fine-tune are the exception: they are the model's own.
    """

    step: int
    write_weights: Callable[[Path], None]
    optimizer_tensors: dict[str, Tensor]
    content: dict[str, Any]
    """What trainer_state.json holds."""

    @classmethod
    def take(
        cls,
        state: TrainerState,
        *,
        write_weights: Callable[[Path], None],
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        scaler: dict[str, Any] | None,
        copies: HostCopies | None = None,
    ) -> Snapshot:
        """Copies what a checkpoint holds; ``write_weights`` writes the weights to a folder.

        ``copies`` are those into which the weights are copied; new ones if there are none.
        """
        tensors: dict[str, Tensor] = {}
        copies = copies or HostCopies()
        content = {
            "format": FORMAT,
            "state": asdict(state),
            "optimizer": _take_tensors(optimizer, "optimizer", tensors, copies),
            "schedule": dict(schedule),
            "scaler": scaler,
        }
        copies.wait()
        return cls(state.step, write_weights, tensors, content)


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(
        self, path: Path, keep: int | None, identity: dict[str, Any] | None = None
    ) -> None:
        """The folder, how many to keep, and what each one says of the run: run.json's content."""
        self.path = path
        self.keep = keep
        self.identity = identity
        self.resumed_step: int | None = None
        """The one that the run went on from is kept as long as the process lives."""

    def commit(self, snapshot: Snapshot, *, keep_step: int | None) -> Path:
        """Writes a checkpoint, then removes those beyond the limit.

        The checkpoint of ``keep_step`` (the best one) is never removed.

        Raises:
            OSError: no space, not writable; what was there before is untouched.
        """
        target = self.at_step(snapshot.step)
        with staged_folder(target) as staging:
            snapshot.write_weights(staging)
            save_file(snapshot.optimizer_tensors, staging / _OPTIMIZER)
            _write_json(staging / _STATE, {**snapshot.content, "run": self.identity})
            _write_json(staging / MANIFEST, _manifest_of(staging))
        self._prune({snapshot.step, self.resumed_step, keep_step})
        return target

    def newest(self, on_broken: Callable[[Path, str], None]) -> Checkpoint | None:
        """The newest whole checkpoint, or None; ``on_broken`` is told of each one set aside."""
        for path in reversed(self._all()):
            try:
                return read_checkpoint(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                on_broken(path, str(error))
                # Out of the way: it must not count as one of the newest when old ones are removed.
                broken = path.with_name(f"broken-{path.name}")
                remove(broken)
                path.rename(broken)
        return None

    @property
    def num_there(self) -> int:
        """How many there are."""
        return len(self._all())

    def at_step(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.path / f"step-{step:06d}"

    def is_whole(self, step: int) -> bool:
        """Whether the checkpoint of a step is there and undamaged."""
        try:
            read_checkpoint(self.at_step(step))
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def _all(self) -> list[Path]:
        """By step; clocks and mtimes are not asked."""
        found = [path for path in self.path.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def _prune(self, needed_steps: set[int | None]) -> None:
        if self.keep is None:
            return
        found = self._all()
        needed = {self.at_step(step) for step in needed_steps if step is not None}
        for path in found[: -self.keep]:
            if path not in needed:
                retire(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads and checks one checkpoint.

    Raises:
        UserError: another version of ft wrote it, in a format that this one does not read.
        ValueError: a file is missing, has another size or other bytes than the manifest says.
        OSError: it can't be read.
    """
    text = (path / MANIFEST).read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise ValueError(f"{MANIFEST} is cut short")
    manifest = json.loads(text)
    if manifest["format"] != FORMAT:
        _refuse_format(path, manifest["format"])
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != expected["bytes"]:
            raise ValueError(f"{name} has {file.stat().st_size} bytes, not {expected['bytes']}")
        if sha256_of(file) != expected["sha256"]:
            raise ValueError(f"{name} is damaged: its bytes are not those that were written")
    content = json.loads((path / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(
        path,
        TrainerState(**content["state"]),
        _put_tensors(content["optimizer"], load_file(path / _OPTIMIZER)),
        content["schedule"],
        content["scaler"],
    )


def _refuse_format(path: Path, number: Any) -> NoReturn:
    """Both files that name the format say so: else it is damage, and no other version."""
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if state["format"] != number:
        raise ValueError(f"{MANIFEST} and {_STATE} name different formats")
    raise UserError(
        Problem(
            f"is a checkpoint of format {number}, and this ft reads {FORMAT}",
            str(path),
            fix="go on with the ft that began the run, or train anew with --overwrite",
        )
    )


def _manifest_of(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "format": FORMAT,
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
            for path in files
        },
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor], copies: HostCopies) -> Any:
    """The value as JSON; each tensor is copied into ``tensors`` and leaves its name behind."""
    if isinstance(value, Tensor):
        tensors[name] = copies.copy(name, value)
        return {"$tensor": name}
    if isinstance(value, dict):
        return {
            "$dict": [
                [key, _take_tensors(item, f"{name}.{key}", tensors, copies)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, (list, tuple)):
        return [_take_tensors(item, f"{name}.{i}", tensors, copies) for i, item in enumerate(value)]
    return value


def _put_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """What ``_take_tensors`` took apart, put together again (tuples come back as lists)."""
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        return {key: _put_tensors(item, tensors) for key, item in tree["$dict"]}
    if isinstance(tree, list):
        return [_put_tensors(item, tensors) for item in tree]
    return tree


def seed_generators(seed: int, *counters: int) -> None:
    """Puts the generators of torch (on every device), numpy and Python where (seed, counters) says.

    What is drawn then depends on where the run stands and on nothing that happened before.
    """
    mixed = seed & 0xFFFFFFFF
    for counter in counters:  # splitmix-style mixing: neighbouring counters give unrelated seeds
        mixed = (mixed * 0x9E3779B97F4A7C15 + counter + 1) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    torch.manual_seed(mixed & 0x7FFFFFFFFFFFFFFF)
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)  # the global one, which a model's code may draw from

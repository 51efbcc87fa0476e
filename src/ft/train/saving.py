"""Checkpoints written beside the training.

What a checkpoint holds is copied to the host, and a thread writes it while the next steps run. The
guarantees are those of a write in the foreground: one rename makes a whole checkpoint, a checkpoint
is told of once it has its name, and a failed write stops the run: at the step at which it is
noticed, on all processes alike. Whatever ends the run waits for the write first.

A full fine-tune is not copied, because a second copy may not fit: it is written in the foreground.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ft.model.host_copies import HostCopies
from ft.runtime import MachineError, Problem
from ft.train.agreement import Agreement
from ft.train.checkpoint import Checkpoint, CheckpointFolder, Snapshot, TrainerState


class Weights(Protocol):
    """Whoever can write the trained weights to a folder and read them back."""

    def save_weights(self, folder: Path) -> None: ...  # noqa: D102
    def load_weights(self, folder: Path) -> None: ...  # noqa: D102
    def snapshot(self, copies: HostCopies) -> Callable[[Path], Any]: ...  # noqa: D102
    @property
    def has_adapter(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Written:
    """A checkpoint that has its name."""

    step: int
    stall_time_s: float
    """How long training stood still for it."""
    save_time_s: float
    """Until it was on the disk."""


@dataclass(frozen=True)
class _Write:
    future: Future[Path]
    step: int
    started: float
    stall_time_s: float


class CheckpointWriter:
    """Saves and restores what training holds; one process of a run writes for all."""

    def __init__(
        self,
        folder: CheckpointFolder,
        *,
        accelerator: Accelerator,
        weights: Weights,
        optimizer: Optimizer,
        schedule: LRScheduler,
        on_written: Callable[[Written], None],
    ) -> None:
        self.folder = folder
        self.accelerator = accelerator
        self.agreement = Agreement(accelerator)
        self.weights = weights
        self.optimizer = optimizer
        self.schedule = schedule
        self.on_written = on_written
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._write: _Write | None = None
        self._copies = HostCopies()
        """Used again by each save, which waits for the one before it."""

    def save(self, state: TrainerState, *, keep_step: int | None) -> None:
        """Begins a checkpoint of ``state.step`` once all processes have come here.

        Raises:
            OSError: the former one could not be written, or this one, if it is in the foreground.
        """
        self.settle()
        started = time.perf_counter()
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            # Those of a full fine-tune are too large to keep.
            copies = self._copies if self.weights.has_adapter else HostCopies()
            snapshot = Snapshot.take(
                state,
                write_weights=self.weights.snapshot(copies),
                optimizer=self.optimizer.state_dict(),
                schedule=self.schedule.state_dict(),
                scaler=None if scaler is None else scaler.state_dict(),
                copies=copies,
            )
            commit = partial(self.folder.commit, snapshot, keep_step=keep_step)
            future = self._thread.submit(commit)
            stall_time_s = time.perf_counter() - started
            self._write = _Write(future, state.step, started, stall_time_s)
        if not self.weights.has_adapter:
            self.settle()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts weights, optimizer, schedule and scaler where the checkpoint says."""
        self.weights.load_weights(checkpoint.path)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.schedule.load_state_dict(checkpoint.schedule)
        if self.accelerator.scaler is not None and checkpoint.scaler is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.scaler)
        self.folder.resumed_step = checkpoint.state.step

    @property
    def has_failed(self) -> bool:
        """Whether the write under way came to grief; ``settle`` says how."""
        write = self._write
        return write is not None and write.future.done() and write.future.exception() is not None

    def poll(self) -> None:
        """Tells of a checkpoint that has got its name since."""
        if self._write is not None and self._write.future.done() and not self.has_failed:
            self._tell()

    def settle(self) -> None:
        """Waits for the write under way; every process must come here.

        Raises:
            OSError: it failed.
            MachineError: it failed in another process.
        """
        error = None if self._write is None else self._write.future.exception()
        if self.agreement.any(error is not None):
            self._write = None
            raise error or MachineError(
                Problem("another process of the run could not write the checkpoint")
            )
        if self._write is not None:
            self._tell()

    def close(self) -> None:
        """Lets the write under way end, whatever comes of it."""
        self._thread.shutdown()

    def _tell(self) -> None:
        assert self._write is not None
        write, self._write = self._write, None
        elapsed_s = time.perf_counter() - write.started
        self.on_written(Written(write.step, write.stall_time_s, elapsed_s))

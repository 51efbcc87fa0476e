"""kill -9 at every system call of a save: the kernel does it, asked by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import torch

from ft.train.checkpoint import CheckpointFolder, Snapshot, TrainerState, read_checkpoint
from programme.bench import Bench, Outcome
from programme.forks import Fork

CALLS = ("mkdir", "write", "fsync", "renameat", "rename", "unlink", "unlinkat", "rmdir")
"""All that changes the disk in four saves with two kept; libraries call none of it as they load."""
NUM_SAVES = 4


def commit(folder: CheckpointFolder, step: int, keep_step: int | None = None) -> None:
    """A small checkpoint that says in every part which step it is of."""
    tensor = torch.full((64,), float(step))
    snapshot = Snapshot.take(
        TrainerState(step=step),
        write_weights=lambda path: (path / "adapter_config.json").write_text(str(step)),
        optimizer={"state": {0: {"exp_avg": tensor, "step": tensor[0]}}},
        schedule={"last_epoch": step},
        scaler=None,
    )
    folder.commit(snapshot, keep_step=keep_step)


def is_possible() -> bool:
    """Whether strace is installed."""
    return shutil.which("strace") is not None


def save_watched(folder: Path, *options: str) -> tuple[int, list[str]]:
    """Four saves under strace; the exit code of the process, and what strace wrote."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    child = Fork(_save_once_watched, folder, output=folder.with_suffix(".said"))
    trace = folder.with_suffix(".trace")
    strace = ["strace", "-qq", "-y", "-o", str(trace), *options, "-p", str(child.pid)]
    subprocess.run(strace, check=False, capture_output=True, timeout=120)
    return child.wait(), trace.read_text().splitlines()


def kills_at_every(bench: Bench, call: str) -> Outcome:
    """First save, later saves, removal of old ones: old or new, never neither, never half."""
    outcome, num_found = Outcome(), 0
    for number in range(1, 1000):
        folder = bench.folder / f"saves-{call}" / f"kill{number}"
        shutil.rmtree(folder, ignore_errors=True)
        code, _ = save_watched(
            folder, f"--trace={call}", f"--inject={call}:signal=KILL:when={number}"
        )
        found = _whole_ones(folder, outcome)
        if code != -signal.SIGKILL:  # it makes the call less often than that: all was saved
            outcome.expect(code == 0, f"exit code {code}")
            outcome.expect(found == [NUM_SAVES - 1, NUM_SAVES], f"{found} at the end")
            break
        is_left = len(found) >= min(num_found, 2)
        outcome.expect(
            is_left,
            f"{call} {number}: {num_found} checkpoints before, now {found}",
            kills=1,
            valid=1,
        )
        num_found = len(found)
    outcome.expect(outcome.counts["kills"] > 1, f"{call} is never called")
    shutil.rmtree(bench.folder / f"saves-{call}")
    return outcome


def order_of_flushes(bench: Bench) -> Outcome:
    """Every file is flushed, then its folder; then it gets its name, and that is flushed."""
    folder = bench.folder / "order" / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    code, lines = save_watched(folder, "--trace=fsync,rename")
    outcome = Outcome()
    outcome.expect(code == 0, f"exit code {code}")
    named = [i for i, line in enumerate(lines) if re.search(rf'step-0*{NUM_SAVES}"[)]', line)]
    outcome.expect(bool(named), "no checkpoint gets its name by a rename")
    if not named:
        return outcome
    staging = re.search(r'"([^"]+)"', lines[named[0]])[1]
    pattern = re.compile(rf"fsync.*<({re.escape(staging)}.*)>[)]")
    flushed = [found[1] for line in lines[: named[0]] if (found := pattern.search(line))]
    files = {f"{staging}/{path.name}" for path in _folder_of(folder, NUM_SAVES).iterdir()}
    missing = (files | {staging}) - set(flushed)
    outcome.expect(len(files) == 4, f"files {files}")
    outcome.expect(not missing, f"never flushed before the rename: {missing}")
    outcome.expect(flushed[-1:] == [staging], "the folder is not flushed after its files")
    after = lines[named[0] + 1] if len(lines) > named[0] + 1 else ""
    outcome.expect(f"<{folder}>" in after, "the rename itself is not flushed", orders_right=1)
    return outcome


def _save_once_watched(folder: Path) -> None:
    while "TracerPid:\t0" in Path("/proc/self/status").read_text():
        time.sleep(0.001)
    checkpoints = CheckpointFolder(folder, keep=2)
    for step in range(1, NUM_SAVES + 1):
        commit(checkpoints, step)


def _folder_of(folder: Path, step: int) -> Path:
    return CheckpointFolder(folder, keep=None).at_step(step)


def _whole_ones(folder: Path, outcome: Outcome) -> list[int]:
    """The steps of what the next run finds: each whole, with nothing of another."""
    steps = sorted(int(path.name[5:]) for path in folder.glob("step-*"))
    for step in steps:
        path = _folder_of(folder, step)
        try:
            checkpoint = read_checkpoint(path)
            says = {
                checkpoint.state.step,
                checkpoint.schedule["last_epoch"],
                int(checkpoint.optimizer["state"][0]["exp_avg"][0]),
                int((path / "adapter_config.json").read_text()),
            }
            outcome.expect(says == {step}, f"{path.name} says it is of {says}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            outcome.expect(False, f"{path.name} is not whole: {error}")
    return steps

"""Disks that get full in the middle of a run, and limits of what a process may write."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from programme.bench import (
    KINDS,
    Bench,
    Life,
    Outcome,
    require_equal_runs,
    start,
    train_to_the_end,
)
from programme.forks import Fork

_KEYS = {"save_steps": 1, "save_total_limit": 100, "num_epochs": 3}
_ENOUGH = "64m"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes in the folder, as long as the block lasts.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def enlarge(folder: Path) -> None:
    """Somebody frees space."""
    subprocess.run(["mount", "-o", f"remount,size={_ENOUGH}", folder], check=True)


def full_disk(bench: Bench, kind: str, seed: int) -> Outcome:
    """A disk for some of the checkpoints: exit 3, what was saved is whole; with space, it goes on."""
    reference = bench.reference(f"disks-{kind}", **KINDS[kind], **_KEYS)
    name = f"disks-{kind}-{seed}"
    if os.path.ismount(left := bench.folder / name / "out"):  # by a driver that was killed
        subprocess.run(["umount", left], check=True)
    config = bench.config(name, **KINDS[kind], **_KEYS)
    one = _size_of(reference / "checkpoints" / "step-000002")
    size = int(one * random.Random(f"{kind} {seed}").uniform(1.0, 9.0))
    outcome = Outcome()
    out = config.parent / "out"
    with small_disk(out, size):
        life = Life(out)
        _require_told_and_nothing_lost(outcome, start(config), life)
        enlarge(out)
        train_to_the_end(config)
        life.end(outcome)
        require_equal_runs(outcome, reference, out)
    bench.clear(config)
    return outcome


def limited_files(bench: Bench, kind: str, seed: int) -> Outcome:
    """A process whose files may not get longer than some part of a checkpoint."""
    reference = bench.reference(f"disks-{kind}", **KINDS[kind], **_KEYS)
    config = bench.config(f"limits-{kind}-{seed}", **KINDS[kind], **_KEYS)
    largest = max(path.stat().st_size for path in (reference / "checkpoints/step-000002").iterdir())
    limit = int(largest * random.Random(f"{kind} {seed}").uniform(0.05, 0.99))
    outcome, out = Outcome(), config.parent / "out"
    process = Fork(_limited_ft, str(config), limit, output=config.with_name("said"))
    life = Life(out)
    _require_told_and_nothing_lost(outcome, process, life)
    train_to_the_end(config)
    life.end(outcome)
    require_equal_runs(outcome, reference, out)
    bench.clear(config)
    return outcome


def _limited_ft(config: str, limit: int) -> None:
    from ft.cli import main

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    main(["train", config])


def _require_told_and_nothing_lost(outcome: Outcome, process: Fork, life: Life) -> None:
    code = process.wait()
    said = process.said()
    is_told = code == 3 and "Traceback" not in said and ("space" in said or "full" in said)
    outcome.expect(is_told, f"exit code {code}: {said[-1500:]}", told=1)
    num_faults = len(outcome.faults)
    life.end(outcome)
    names = [path.name for path in life.out.glob("checkpoints/*")]
    outcome.expect(all(name.startswith("step-") for name in names), f"left behind: {names}")
    outcome.expect(len(outcome.faults) == num_faults, "something saved was lost", intact=1)
    outcome.counts["disks"] += 1
    outcome.counts["after_a_commit"] += bool(life.committed)


def _size_of(folder: Path) -> int:
    """As a file system counts it, in pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.iterdir())


def is_possible(folder: Path) -> bool:
    """Whether mounting is allowed here."""
    try:
        with small_disk(folder, 100_000):
            return True
    except PermissionError:
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)

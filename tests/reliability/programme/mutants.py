"""Faults planted in a copy of the source: named tests of the fast part must fail for each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from programme.bench import Bench, Outcome
from programme.forks import ROOT

_KILLS = "tests/reliability/test_kills.py"
_DAMAGE = "tests/reliability/test_damage.py"
_LEAVING = "tests/reliability/test_leaving.py"
_FULL_DISK = "tests/reliability/test_full_disk.py"
_NUMERICS = "tests/reliability/test_numerics.py"
_DOUBLES = "tests/reliability/test_double_start.py"
_EXACTNESS = "tests/train/test_exactness.py::test_a_stopped_run_goes_on_bit_for_bit[lora]"
_POWER_CUT = f"{_KILLS}::test_the_order_survives_a_power_cut"


@dataclass(frozen=True)
class Edit:
    """In a file below src/ft, text that is there once gives way to another."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """What is planted, and the tests of which one must fail."""

    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


MUTANTS = {
    "files are not flushed": Mutant(
        (Edit("runtime/durable.py",
              'as file:\n                os.fsync(file.fileno())', "as file:\n                pass"),),
        (_POWER_CUT,),
    ),
    "the folder of a checkpoint is not flushed": Mutant(
        (Edit("runtime/durable.py", "        sync_folder(Path(root))\n", ""),), (_POWER_CUT,),
    ),
    "the rename is not flushed": Mutant(
        (Edit("runtime/durable.py",
              "staging.rename(target)\n    sync_folder(target.parent)", "staging.rename(target)"),),
        (_POWER_CUT,),
    ),
    "no staging: written in place": Mutant(
        (Edit("runtime/durable.py",
              'staging = target.with_name(f"{STAGING_PREFIX}{target.name}-{os.getpid()}")\n'
              "    if staging.exists():", "staging = target\n    if staging.exists():"),
         Edit("runtime/durable.py", "        _swap_in(staging, target)\n", "")),
        (f"{_KILLS}::test_a_kill_at_every_call_of_a_save[write]",),
    ),
    "old ones are removed before the new one is there": Mutant(
        (Edit("train/checkpoint.py", "        with staged_folder(target) as staging:\n",
              "        for path in self._all()[1 - (self.keep or 99) :][:1]:\n"
              "            retire(path)\n        with staged_folder(target) as staging:\n"),),
        (f"{_KILLS}::test_a_kill_at_every_call_of_a_save[write]",),
    ),
    "an old one keeps its name while it is removed": Mutant(
        (Edit("runtime/durable.py", "    folder.rename(aside)\n    remove(aside)\n",
              "    shutil.rmtree(folder)\n"),),
        (f"{_KILLS}::test_a_kill_at_every_call_of_a_save[unlinkat]",),
    ),
    "the manifest's sums are not compared": Mutant(
        (Edit("train/checkpoint.py", 'if sha256_of(file) != expected["sha256"]:', "if False:"),),
        (_DAMAGE,),
    ),
    "the newest checkpoint is taken unseen": Mutant(
        (Edit("train/checkpoint.py", "                on_broken(path, str(error))\n",
              "                raise\n"),),
        (_DAMAGE,),
    ),
    "the newest is told by the clock": Mutant(
        (Edit("train/checkpoint.py", 'key=lambda path: int(path.name.removeprefix("step-"))',
              "key=lambda path: path.stat().st_mtime"),),
        (_DAMAGE,),
    ),
    "the best checkpoint is removed with the old ones": Mutant(
        (Edit("train/checkpoint.py", "self._prune({snapshot.step, self.resumed_step, keep_step})",
              "self._prune({snapshot.step})"),),
        (_DAMAGE,),
    ),
    "generators are seeded once a run": Mutant(
        (Edit("train/loop.py", "            seed_generators(self.settings.seed, step, number,",
              "            if not step: seed_generators(self.settings.seed, step, number,"),),
        (_EXACTNESS, f"{_KILLS}::test_ten_kills"),
    ),
    "the optimizer begins anew": Mutant(
        (Edit("train/saving.py", "        self.optimizer.load_state_dict(checkpoint.optimizer)\n", ""),),
        (_EXACTNESS, f"{_KILLS}::test_ten_kills"),
    ),
    "the schedule begins anew": Mutant(
        (Edit("train/saving.py", "        self.schedule.load_state_dict(checkpoint.schedule)\n", ""),),
        (_EXACTNESS, f"{_KILLS}::test_ten_kills"),
    ),
    "a checkpoint is told of before it is there": Mutant(
        (Edit("train/saving.py", "            self._write = _Write(future, state.step, started, stall_time_s)\n",
              "            self.on_written(Written(state.step, 0.0, 0.0))\n"),),
        (f"{_KILLS}::test_ten_kills", f"{_KILLS}::test_told_only_of_what_is_there"),
    ),
    "the copy of a checkpoint is none": Mutant(
        (Edit("model/host_copies.py",
              "        place.copy_(tensor.detach(), non_blocking=True)\n        return place\n",
              "        return tensor.detach()\n"),),
        (f"{_KILLS}::test_a_snapshot_does_not_follow_the_training",),
    ),
    "steps that are trained again are told twice": Mutant(
        (Edit("runtime/events.py", 'if event.get("event") in ("resumed", "start"):', "if False:"),),
        (_EXACTNESS, "tests/runtime/test_events.py"),
    ),
    "NaN is logged as 0 and training goes on": Mutant(
        (Edit("train/health.py", "        if math.isfinite(value):\n", "        if True:\n"),
         Edit("train/health.py", "if not bool(torch.stack(checks).all()):", "if False:"),
         Edit("train/loop.py", "reduce(loss_sum, reduction", "reduce(loss_sum.nan_to_num(0.0), reduction")),
        (_NUMERICS,),
    ),
    "half a checkpoint stays on a full disk": Mutant(
        (Edit("runtime/durable.py",
              "        shutil.rmtree(staging, ignore_errors=True)\n        raise", "        raise"),),
        (_FULL_DISK,),
    ),
    "space is not asked for beforehand": Mutant(
        (Edit("train/space.py", "if need.least_bytes > free_bytes:", "if False:"),), (_FULL_DISK,),
    ),
    "a full disk is any error": Mutant(
        (Edit("train/run.py", "if is_disk_full(error):", "if False:"),), (_FULL_DISK,),
    ),
    "the directory is not locked": Mutant(
        (Edit("runtime/rundir.py", "            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", ""),),
        (_DOUBLES,),
    ),
    "a second signal is not heard": Mutant(
        (Edit("train/signals.py", "if num_signals == 2:", "if num_signals == 200:"),),
        (_LEAVING,),
    ),
    "a signal ends the run without a checkpoint": Mutant(
        (Edit("train/loop.py", "        self._save()\n        self.writer.settle()\n        self._tell(\"interrupted\"",
              "        self._tell(\"interrupted\""),),
        (_EXACTNESS, _LEAVING),
    ),
}  # fmt: skip


def is_caught(bench: Bench, name: str) -> Outcome:
    """Plants one and runs its tests; ``none`` plants nothing and runs those of all the others."""
    chosen = [MUTANTS[name]] if name != "none" else list(MUTANTS.values())
    tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
    folder = bench.folder / f"mutant-{re.sub('[^a-zA-Z0-9]+', '-', name)}"
    _copy_of_the_source(folder)
    if name != "none":
        for edit in MUTANTS[name].edits:
            (folder / "src/ft" / edit.file).write_text(changed(edit, folder / "src/ft"))
    done = _run_tests(folder, list(tests))
    outcome = Outcome()
    said = done.stdout[-3000:] + done.stderr[-1000:]
    if name == "none":
        outcome.expect(done.returncode == 0, f"fails without any fault: {said}", passes_without=1)
    else:
        is_failure = done.returncode == 1 and " failed" in done.stdout
        outcome.expect(is_failure, f"not caught, exit code {done.returncode}: {said}", caught=1)
        outcome.counts["planted"] += 1
    shutil.rmtree(folder)
    return outcome


def _copy_of_the_source(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("src", "tests", "configs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def changed(edit: Edit, source: Path) -> str:
    """The text of the edit's file with the fault in it.

    Raises:
        ValueError: what it takes the place of is not there once.
    """
    text = (source / edit.file).read_text()
    if text.count(edit.old) != 1:
        raise ValueError(f"{edit.file} has {text.count(edit.old)} times: {edit.old!r}")
    return text.replace(edit.old, edit.new)


def _run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    paths = [str(folder / name) for name in ("src", "tests", "tests/reliability")]
    options = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip

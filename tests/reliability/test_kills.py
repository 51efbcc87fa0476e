"""kill -9 at any moment: the same command goes on from the newest checkpoint, bit for bit."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from ft.runtime.durable import sha256_of
from ft.train.checkpoint import CheckpointFolder, Snapshot, TrainerState, read_checkpoint
from runs import curve, events, run, start_ft, write_config

KINDS = {
    "lora": {"lora_dropout": 0.1},
    "full": {"adapter": None, "learning_rate": 1e-3},
    "packed": {"lora_dropout": 0.1, "sample_packing": True},
}


def chain_of_kills(tmp_path, base, keys, num_kills, seed):
    """Kills at random times until there were enough, then to the end; gives what happened."""
    keys = {"num_epochs": 8, "save_steps": 1, "save_total_limit": 2} | keys
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, base, **keys)
    run(tmp_path / "straight" / "run.yml")
    out, times = tmp_path / "killed" / "out", random.Random(seed)
    for _ in range(num_kills):
        num_begun = len(events(out, "start"))
        process = start_ft("train", tmp_path / "killed" / "run.yml", stdout=subprocess.DEVNULL)
        while len(events(out, "start")) == num_begun and process.poll() is None:
            time.sleep(0.01)
        time.sleep(times.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(tmp_path / "killed" / "run.yml")
    return tmp_path / "straight" / "out", out


def require_equal(straight, killed):
    assert curve(killed) == curve(straight), "no step missing, none doubled, none different"
    (weights,) = straight.glob("*model.safetensors")
    assert sha256_of(weights) == sha256_of(killed / weights.name)
    left = [path.name for path in (killed / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in left), "what the dead left is cleared away"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("kind", KINDS)
def test_many_chains_of_kills(tmp_path, tiny_llama, kind, seed):
    """21 runs, 105 kills; one kill in one run is in tests/train/test_exactness.py."""
    straight, killed = chain_of_kills(tmp_path, tiny_llama, KINDS[kind], num_kills=5, seed=seed)
    require_equal(straight, killed)
    assert events(killed, "resumed")


NURSERY = """
import os, sys, time
from pathlib import Path
from test_kills import commit
from ft.train.checkpoint import CheckpointFolder

def is_watched():
    return "TracerPid:\\t0" not in Path("/proc/self/status").read_text()

commit(CheckpointFolder(Path(sys.argv[1]), keep=2), 1)  # whatever is loaded late is loaded now
for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    while not is_watched():
        time.sleep(0.001)
    folder = CheckpointFolder(Path(line.strip()), keep=2)
    for step in range(1, 5):
        commit(folder, step)
    os._exit(0)
"""
"""Gives birth to processes that save four checkpoints, each once strace watches it."""

CALLS = ("mkdir", "write", "fsync", "renameat", "rename", "unlink", "unlinkat", "rmdir")
"""All that changes the disk in four saves with two kept; libraries call none of it as they load."""


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


class Nursery:
    """A process that has everything loaded, so that a killed child costs milliseconds."""

    def __init__(self, folder):
        here = os.path.dirname(__file__)
        path = os.pathsep.join([here, os.path.dirname(here), *sys.path])
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(folder / "first")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def save(self, folder, *options):
        """Four saves under strace; the exit code of the process, and what strace wrote."""
        self.process.stdin.write(f"{folder}\n")
        child = self.process.stdout.readline().strip()
        trace = folder.with_suffix(".trace")
        strace = ["strace", "-qq", "-y", "-o", str(trace), *options, "-p", child]
        subprocess.run(strace, check=False, capture_output=True)
        return int(self.process.stdout.readline()), trace.read_text().splitlines()

    def kill_at(self, folder, call, number):
        """Whether the kernel killed the process as it made this call for the given time."""
        inject = f"--inject={call}:signal=KILL:when={number}"
        code, _ = self.save(folder, f"--trace={call}", inject)
        assert code in (0, -signal.SIGKILL)
        return code != 0


def require_old_or_new(folder):
    """What the next run finds: a whole checkpoint, the newest there is, with nothing of another."""
    found = sorted(path.name for path in folder.glob("step-*")) if folder.exists() else []
    for name in found:
        checkpoint = read_checkpoint(folder / name)
        step = int(name[5:])
        assert checkpoint.state.step == checkpoint.schedule["last_epoch"] == step
        assert float(checkpoint.optimizer["state"][0]["exp_avg"][0]) == step
        assert (folder / name / "adapter_config.json").read_text() == str(step)
    return found


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.process.communicate()


@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_every_call_of_a_save(tmp_path, nursery, call):
    """First save, later saves, removal of old ones: old or new, never neither, never half."""
    number, num_found = 1, 0
    while nursery.kill_at(folder := tmp_path / f"kill{number}", call, number):
        found = len(require_old_or_new(folder))
        assert found >= min(num_found, 2), "once there is one, there is always one"
        num_found, number = found, number + 1
    assert number > 2
    assert require_old_or_new(folder) == ["step-000003", "step-000004"]


def test_the_order_survives_a_power_cut(tmp_path, nursery):
    """Every file is flushed, then its folder; then it gets its name, and that is flushed."""
    folder = tmp_path / "checkpoints"
    code, lines = nursery.save(folder, "--trace=fsync,rename")
    assert code == 0
    named = next(i for i, line in enumerate(lines) if 'step-000004")' in line)
    staging = re.search(r'"(\S+/[.]tmp-step-000004-\d+)"', lines[named])[1]
    flushed = [
        m[1] for line in lines[:named] if (m := re.search(rf"fsync.*<({staging}.*)>[)]", line))
    ]
    files = {f"{staging}/{path.name}" for path in (folder / "step-000004").iterdir()}
    assert len(files) == 4
    assert set(flushed) == files | {staging}
    assert flushed[-1] == staging
    assert f"<{folder}>" in lines[named + 1]

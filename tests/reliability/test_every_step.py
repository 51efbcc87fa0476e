"""Resumed from every step, and stopped at any time: the run is the uninterrupted one, bit for bit.

A checkpoint is of an optimizer step, so a kill amid the passes of one goes back to its beginning:
there is no state between passes that could be lost.
"""

import json
import random
import shutil
import signal
import time

import pytest

from ft.runtime import RunDirectory
from ft.runtime.durable import sha256_of
from ft.spec import load_spec
from runs import curve, events, run, start_ft, write_config

KINDS = {
    "lora": {"lora_dropout": 0.1},
    "packed": {"lora_dropout": 0.1, "sample_packing": True, "num_epochs": 6},
    "nf4": {"adapter": "qlora", "load_in_4bit": True, "lora_dropout": 0.1},
    "full": {"adapter": None, "learning_rate": 1e-3},
}
KEYS = {
    "num_epochs": 2,
    "save_steps": 1,
    "save_total_limit": 50,
    "val_set_size": 3,
    "eval_steps": 2,
}


def weights_sum(out):
    (weights,) = out.glob("*model.safetensors")
    return sha256_of(weights)


def resumed_from(step, straight, config):
    """The run as it stood when the checkpoint of a step was the newest, and on from there."""
    out = straight.parent / "out"
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(straight, out)
    for path in (out / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    identity = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(identity | {"finished": False}))
    run(config)
    assert events(out, "resumed")[-1]["step"] == step
    return out


def require_equal_from(steps, tmp_path, base, keys):
    """Gives the uninterrupted run. Steps are counted from the end where they are negative."""
    config = write_config(tmp_path, base, **(KEYS | keys))
    run(config)
    straight = (tmp_path / "out").rename(tmp_path / "straight")
    num_steps = len(curve(straight))
    for step in steps if steps is not None else range(1, num_steps):
        out = resumed_from(step % num_steps, straight, config)
        assert curve(out) == curve(straight), step
        assert weights_sum(out) == weights_sum(straight), step
    return straight


def test_the_edge_of_an_epoch_and_the_last_step(tmp_path, tiny_llama):
    require_equal_from([4, -1], tmp_path, tiny_llama, KINDS["lora"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_step(kind, tmp_path, tiny_llama):
    require_equal_from(None, tmp_path, tiny_llama, KINDS[kind])


@pytest.mark.parametrize(
    ("num_epochs", "steps"), [(1, [2]), pytest.param(2, None, marks=pytest.mark.slow)]
)
def test_workers_of_a_loader_change_no_bit(num_epochs, steps, tmp_path, tiny_llama):
    """ft makes batches without a loader's workers: it says so, and runs with 0 and 2 are one."""
    straight = []
    for num_workers in (0, 2):
        (folder := tmp_path / str(num_workers)).mkdir()
        keys = {"num_epochs": num_epochs, "dataloader_num_workers": num_workers}
        straight.append(require_equal_from(steps, folder, tiny_llama, KINDS["lora"] | keys))
    (notice,) = load_spec(tmp_path / "2" / "run.yml").notices
    assert notice.startswith("no effect here: dataloader_num_workers (the same numbers")
    assert curve(straight[0]) == curve(straight[1])
    assert weights_sum(straight[0]) == weights_sum(straight[1])


def holds(process, out):
    """Whether it has come so far; before `ft` begins it is Python that a signal ends."""
    lock = out / ".lock"
    return lock.exists() and f"process {process.pid} on" in lock.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_fifty_signals_at_random_times(seed, tmp_path, tiny_llama):
    """Ten a run: while data is read, the model is loaded, between steps, in evaluations and saves."""
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
        write_config(
            tmp_path / name, tiny_llama, **(KEYS | {"num_epochs": 20, "lora_dropout": 0.1})
        )
    run(tmp_path / "straight" / "run.yml")
    config, out = tmp_path / "stopped" / "run.yml", tmp_path / "stopped" / "out"
    draw = random.Random(seed)
    for _ in range(10):
        process = start_ft("train", config)
        number = draw.choice([signal.SIGTERM, signal.SIGINT])
        while not holds(process, out) and process.poll() is None:
            time.sleep(0.01)
        num_begun = len(events(out, "start"))
        if draw.random() < 0.7:  # else before the first step
            while len(events(out, "start")) == num_begun and process.poll() is None:
                time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
        assert "Traceback" not in error
        is_finished = RunDirectory(out).state == "finished"
        allowed = {128 + number, 0} if is_finished else {128 + number}
        assert process.returncode in allowed, error
        if is_finished:
            break
    run(config)
    assert curve(out) == curve(tmp_path / "straight" / "out")
    assert weights_sum(out) == weights_sum(tmp_path / "straight" / "out")

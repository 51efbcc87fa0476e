"""`ft train --processes 2`: the same losses as one, and nobody is left behind when one is lost."""

import json
import os
import resource
import shutil
import signal
import time

import pytest
import torch
from programme.bench import Bench
from programme.lost import chain_of_losses, is_gone, processes_of
from safetensors.torch import load_file, save_file

from runs import curve, events, reached, run, start_ft, wait_for, write_config

STRATEGY = """
import os

if os.environ.get("RANK") == "1":
    raise RuntimeError("only here")

class Strategy:
    supports_batched = False

    def tokenize_prompt(self, prompt):
        return {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "attention_mask": [1, 1, 1]}

def load(tokenizer, cfg):
    return Strategy()
"""


@pytest.fixture
def group(tmp_path, tiny_llama):
    """Two processes in the middle of a long run, and their ids."""
    config = write_config(tmp_path, tiny_llama, num_epochs=4000, save_steps=5)
    command = start_ft("train", config, "--processes", 2)
    wait_for(reached(tmp_path / "out", 6), command)
    ranks = processes_of(command)
    assert sorted(ranks) == [0, 1]
    yield command, ranks, tmp_path / "out"
    for process_id in ranks.values():
        if not is_gone(process_id):
            os.kill(process_id, signal.SIGKILL)
    command.kill()
    command.communicate()


def test_two_processes_train_like_one(tmp_path, tiny_llama):
    keys = {"num_records": 17, "num_epochs": 2, "gradient_accumulation_steps": 1}
    for name, micro_batch_size in (("one", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, tiny_llama, micro_batch_size=micro_batch_size, **keys)
    run(tmp_path / "one" / "run.yml")
    command = start_ft("train", tmp_path / "two" / "run.yml", "--processes", 2)
    output, error = command.communicate(timeout=120)
    assert command.returncode == 0, error
    assert output.count("done in") == 1
    assert events(tmp_path / "two" / "out", "start")[0]["num_processes"] == 2
    one, two = (torch.tensor(curve(tmp_path / name / "out")) for name in ("one", "two"))
    torch.testing.assert_close(one[:, 1], two[:, 1], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "is stopped")]
)
def test_one_that_is_lost_ends_all_and_is_named(group, number, says):
    command, ranks, out = group
    started = time.monotonic()
    os.kill(ranks[1], number)
    _, error = command.communicate(timeout=30)
    assert time.monotonic() - started < 30
    assert command.returncode == 3
    assert f"process 1 of 2 {says}" in error
    assert all(map(is_gone, ranks.values()))
    assert max(path.name for path in (out / "checkpoints").iterdir()) >= "step-000005"


def test_a_signal_saves_once_and_leaves(group):
    command, ranks, out = group
    command.send_signal(signal.SIGTERM)
    _, error = command.communicate(timeout=30)
    assert command.returncode == 143
    step = events(out, "interrupted")[-1]["step"]
    assert f"stopped by SIGTERM after step {step}, which is saved" in error
    assert (out / "checkpoints" / f"step-{step:06d}").is_dir()
    assert all(map(is_gone, ranks.values()))


def test_one_that_cannot_save_ends_all_and_no_half_checkpoint_is_left(group):
    """The one that writes may write no more; the other one has no trouble of its own."""
    command, ranks, out = group
    limit = resource.prlimit(ranks[0], resource.RLIMIT_FSIZE)
    resource.prlimit(ranks[0], resource.RLIMIT_FSIZE, (4000, limit[1]))
    _, error = command.communicate(timeout=60)
    assert command.returncode == 3, error
    assert "no space left" in error or "could not write" in error
    assert "Traceback" not in error
    assert all(map(is_gone, ranks.values()))
    left = [path.name for path in (out / "checkpoints").iterdir()]
    assert left
    assert all(name.startswith("step-") for name in left)


@pytest.mark.slow
def test_a_record_that_gives_nan_on_one_of_two_stops_both_before_the_step(tmp_path, tiny_llama):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][vocabulary["æ"]] = torch.nan  # the first byte of 水
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    config = write_config(tmp_path, base, save_steps=1, save_total_limit=20, num_epochs=2)
    data = tmp_path / "data.jsonl"
    lines = data.read_text().splitlines()
    lines[11] = lines[11].replace("SELECT", "SELECT \u6c34")
    data.write_text("\n".join(lines) + "\n")
    command = start_ft("train", config, "--processes", 2)
    _, error = command.communicate(timeout=200)
    assert command.returncode == 4, error
    assert "data.jsonl:12" in error
    assert error.count("the loss of step") == 1, "told once"
    (failed,) = events(tmp_path / "out", "failed")
    assert len(curve(tmp_path / "out")) == failed["step"] - 1
    saved = [load_file(path) for path in (tmp_path / "out").rglob("adapter_model.safetensors")]
    assert all(tensor.isfinite().all() for state in saved for tensor in state.values())


@pytest.mark.slow
def test_no_orphans_when_the_command_itself_is_killed(group):
    command, ranks, _ = group
    command.kill()
    command.wait()
    until = time.monotonic() + 15
    while not all(map(is_gone, ranks.values())):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_one_that_raises_ends_all_and_its_words_are_shown(tmp_path, tiny_llama):
    (tmp_path / "raises.py").write_text(STRATEGY)
    config = write_config(
        tmp_path,
        tiny_llama,
        datasets=[{"path": str(tmp_path / "data.jsonl"), "type": "./raises.py"}],
    )
    started = time.monotonic()
    command = start_ft("train", config, "--processes", 2)
    _, error = command.communicate(timeout=60)
    assert time.monotonic() - started < 45
    assert command.returncode == 2
    assert "only here" in error
    assert "process 1 of 2" in error


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_chains_of_losses(tmp_path, tiny_llama, number):
    """Five times one of two processes is killed, stopped or raises; the run ends as it would have."""
    assert not chain_of_losses(Bench(tmp_path, tiny_llama), number).faults

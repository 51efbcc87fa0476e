"""The same work gives the same numbers, however it is cut, stopped or killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from ft.runtime import Interrupted
from ft.runtime.durable import sha256_of
from runs import curve, events, run, stop_after, write_config


def weights_of(out):
    return load_file(next(out.glob("*model.safetensors")))


@pytest.mark.parametrize(("micro_batch_size", "accumulation"), [(1, 4), (2, 2), (3, 2)])
def test_accumulation_changes_nothing(tmp_path, tiny_llama, micro_batch_size, accumulation):
    """1 x 4 = 2 x 2 = 4 x 1 at dropout 0: the loss is a mean over the trained tokens of the step."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = micro_batch_size * accumulation
    one = write_config(
        tmp_path / "a",
        tiny_llama,
        micro_batch_size=whole,
        gradient_accumulation_steps=1,
        max_steps=6,
    )
    other = write_config(
        tmp_path / "b",
        tiny_llama,
        micro_batch_size=micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=6,
    )
    run(one)
    run(other)
    torch.testing.assert_close(
        torch.tensor(curve(tmp_path / "a" / "out")),
        torch.tensor(curve(tmp_path / "b" / "out")),
        rtol=2e-5,
        atol=2e-6,
    )


RESUMED = {
    "lora": {},
    "nf4": {"adapter": "qlora", "load_in_4bit": True},
    "full": {"adapter": None, "learning_rate": 1e-3},
    "8-bit optimizer": {"optimizer": "adamw_bnb_8bit"},
    "checkpointing": {"gradient_checkpointing": "always"},
    "inputs shared": {"bf16": True, "lora_dropout": 0.0, "gradient_checkpointing": "always"},
}


@pytest.mark.parametrize("keys", RESUMED.values(), ids=RESUMED.keys())
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, tiny_llama, keys):
    """Mid-epoch, with dropout, ragged accumulation and evaluation between."""
    keys = {"lora_dropout": 0.1, "num_epochs": 2, "val_set_size": 3, "eval_steps": 2, **keys}
    (tmp_path / "straight").mkdir()
    (tmp_path / "stopped").mkdir()
    straight = write_config(tmp_path / "straight", tiny_llama, **keys)
    stopped = write_config(tmp_path / "stopped", tiny_llama, **keys)
    run(straight)
    with pytest.raises(Interrupted) as caught:
        run(stopped, on_event=stop_after(3))
    assert caught.value.exit_code == 143
    assert run(stopped)["num_steps"] == 8
    assert curve(tmp_path / "stopped" / "out") == curve(tmp_path / "straight" / "out")
    for name, tensor in weights_of(tmp_path / "straight" / "out").items():
        assert torch.equal(tensor, weights_of(tmp_path / "stopped" / "out")[name]), name


def test_a_killed_process_goes_on_bit_for_bit(tmp_path, tiny_llama):
    """kill -9 in the middle; the same command, the same curve, the same adapter, byte for byte."""
    keys = {"lora_dropout": 0.1, "num_epochs": 3, "save_steps": 1, "save_total_limit": 2}
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
    straight = write_config(tmp_path / "straight", tiny_llama, **keys)
    killed = write_config(tmp_path / "killed", tiny_llama, **keys)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def ft(config, **options):
        command = [sys.executable, "-m", "ft", "train", config]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, **options)

    assert ft(straight).wait() == 0
    process = ft(killed)
    while not events(tmp_path / "killed" / "out", "step") or (
        events(tmp_path / "killed" / "out", "step")[-1]["step"] < 5
    ):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ft(killed).wait() == 0
    assert len(events(tmp_path / "killed" / "out", "resumed")) == 1
    assert curve(tmp_path / "killed" / "out") == curve(tmp_path / "straight" / "out")
    adapters = [
        tmp_path / name / "out" / "adapter_model.safetensors" for name in ("straight", "killed")
    ]
    assert sha256_of(adapters[0]) == sha256_of(adapters[1])


def test_two_processes_train_like_one(tmp_path, tiny_llama):
    """Uneven last steps too: 17 records, 4 a step. Losses to 1e-6, one line an event."""
    keys = {"num_records": 17, "num_epochs": 2, "gradient_accumulation_steps": 1}
    for name, micro_batch_size in (("one", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, tiny_llama, micro_batch_size=micro_batch_size, **keys)
    run(tmp_path / "one" / "run.yml")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    command = [*launcher, "-m", "ft", "train", str(tmp_path / "two" / "run.yml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done in") == 1
    assert events(tmp_path / "two" / "out", "start")[0]["num_processes"] == 2
    one, two = (torch.tensor(curve(tmp_path / name / "out")) for name in ("one", "two"))
    assert len(one) == 10
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one[:, 1], two[:, 1], rtol=1e-6, atol=0)


def test_order_and_dropout_do_not_depend_on_global_state(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, lora_dropout=0.2, max_steps=3)
    torch.manual_seed(1)
    run(config)
    first = curve(tmp_path / "out")
    torch.manual_seed(2)
    run(config, overwrite=True)
    assert curve(tmp_path / "out") == first

"""`ft bench` in this process and as a command, on tiny models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from ft.bench import Records
from ft.bench.measure import BenchOptions, measure
from ft.bench.record import record_of
from ft.bench.spec import settled
from ft.cli.benching import lines_of
from ft.runtime import Interrupted
from ft.spec import load_spec
from runs import write_config


@pytest.fixture
def shape_only(tiny_llama, tmp_path):
    """A folder that holds a config.json and nothing else."""
    folder = tmp_path / "shape"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    return folder


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary folders go, to see whether they go again."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def bench(config, records, *arguments, num_steps=2, on_event=lambda event: None):
    options = BenchOptions(num_steps, 1, records)
    measured = measure(load_spec(config, arguments), options, on_event=on_event)
    return record_of(measured, "ft bench")


@pytest.mark.parametrize(
    "keys",
    [
        {"adapter": "qlora", "load_in_4bit": True},
        {"adapter": "lora", "load_in_8bit": True, "gradient_checkpointing": True},
        {"adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_linear": None},
    ],
    ids=["qlora", "lora on 8 bits", "full"],
)
def test_a_config_json_is_enough(shape_only, tmp_path, scratch, keys):
    config = write_config(tmp_path, shape_only, **keys)
    seen = []
    record = bench(config, Records.FULL, on_event=seen.append)
    assert record["num_steps"] == 2
    assert record["tokens_per_step"] == 4 * 256, "2 x 2 rows of sequence_len"
    assert record["passes_per_step"] == 2
    assert record["tokens_per_s"] > 0
    assert record["mfu"] > 0
    assert record["share_of_ceiling"] > 0
    assert sum(record["parts"].values()) == pytest.approx(1)
    assert record["kernels"] is None, "no GPU, no kernels"
    assert record["plan"]["num_layers"] == 2, "planned and rehearsed, as ft train does"
    assert sum(event["event"] == "step" for event in seen) == 3, "the loop of ft train, warm-up too"
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "out").exists()
    json.dumps(record, allow_nan=False)
    assert "tokens in 2 passes (" in "".join(lines_of(record))
    assert "tokens in 1 pass (" in "".join(lines_of({**record, "passes_per_step": 1.0}))


def test_the_bits_of_the_config_are_those_of_the_measured_base(shape_only, tmp_path):
    plain = write_config(tmp_path, shape_only)
    assert len(bench(plain, Records.SHORT)["ceilings_tokens_per_s"]) == 2
    qlora = write_config(tmp_path, shape_only, adapter="qlora", load_in_4bit=True)
    record = bench(qlora, Records.SHORT)
    assert record["limits"]["dequantization_bytes_per_s"] > 0
    assert record["pass"]["record_length"] < 256


def test_own_records_are_those_of_the_file(tiny_llama, tmp_path):
    config = write_config(tmp_path, tiny_llama, val_set_size=4, evals_per_epoch=2, save_steps=1)
    seen = []
    record = bench(config, Records.OWN, on_event=seen.append)
    kinds = {event["event"] for event in seen}
    assert {"data", "model", "step"} <= kinds
    assert not kinds & {"evaluation", "checkpoint", "finished"}
    counted = [event["num_tokens"] for event in seen if event["event"] == "step"][1:]
    assert record["tokens_per_step"] == sum(counted) / 2


def test_packs_of_synthetic_records(tiny_llama, tmp_path):
    config = write_config(tmp_path, tiny_llama, sample_packing=True)
    record = bench(config, Records.SHORT)
    assert 0.6 * 1024 < record["tokens_per_step"] <= 1024


@pytest.mark.gpu
def test_on_a_card_the_kernels_are_told_apart(shape_only, tmp_path):
    config = write_config(tmp_path, shape_only, adapter="qlora", load_in_4bit=True, bf16=True)
    record = bench(config, Records.SHORT, num_steps=3)
    assert record["num_steps"] == 3, "the profiled step does not count"
    assert record["passes_per_step"] == 1, "records end to end"
    assert record["kernels"]["by_kind_s"]["matrix products"] > 0
    assert record["kernels"]["by_kind_s"]["attention"] > 0
    assert 0 < record["kernels"]["share_of_step"] < 1.5
    assert record["peak_memory_bytes"] < 2**30
    assert sum(record["parts"].values()) == pytest.approx(1)


def test_what_is_at_hand(tiny_llama, shape_only, tmp_path):
    own = load_spec(write_config(tmp_path, tiny_llama))
    assert settled(Records.AT_HAND, own) == Records.OWN
    assert settled(Records.SHORT, own) == Records.SHORT
    (tmp_path / "data.jsonl").unlink()
    assert settled(Records.AT_HAND, own) == Records.FULL
    no_tokenizer = load_spec(write_config(tmp_path, shape_only))
    assert settled(Records.AT_HAND, no_tokenizer) == Records.FULL


def test_a_signal_ends_it_with_nothing_left(shape_only, tmp_path, scratch):
    config = write_config(tmp_path, shape_only)

    def interrupt(event):
        if event["event"] == "step" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match=r"^the measurement was stopped$") as stopped:
        bench(config, Records.FULL, num_steps=50, on_event=interrupt)
    assert stopped.value.exit_code == 130
    assert list(scratch.iterdir()) == []


def ft(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ft", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_command(shape_only, tmp_path):
    config = write_config(tmp_path, shape_only, adapter="qlora", load_in_4bit=True)
    (tmp_path / "data.jsonl").unlink()
    done = ft(
        "bench", config.name, "--steps", 2, "--lora-r", 8, "--json", "made/b.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "records: synthetic, every row of sequence_len",
        "speed:",
        "tokens/s",
        "p50",
        "of the whole process",
        "this CPU can:",
        "NF4 dequantization",
        "ceiling:",
        "a step's parts:",
        "forward",
        "all figures: made/b.json",
    ):
        assert part in done.stdout
    assert "kernels of one step" not in done.stdout
    record = json.loads((tmp_path / "made" / "b.json").read_text())
    assert record["command"] == "ft bench run.yml --steps 2 --lora-r 8 --json made/b.json"
    assert record["environment"]["libraries"]["torch"]
    assert record["device"]["kind"] == "cpu"
    assert record["model"]["base_model"] == str(shape_only)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "run.yml", "shape"]


def test_what_is_not_there_is_told_with_its_line(shape_only, tmp_path):
    config = write_config(tmp_path, tmp_path / "nowhere")
    missing = ft("bench", config.name, "--records", "short", cwd=tmp_path)
    assert missing.returncode == 2
    assert "run.yml:" in missing.stderr
    assert "no such folder" in missing.stderr
    config = write_config(tmp_path, shape_only)
    (tmp_path / "data.jsonl").unlink()
    own = ft("bench", config.name, "--records", "own", cwd=tmp_path)
    assert own.returncode == 2
    assert "data.jsonl" in own.stderr
    assert "Traceback" not in own.stderr

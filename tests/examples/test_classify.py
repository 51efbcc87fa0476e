"""The classification example, run as it stands on a tiny encoder."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples" / "classify"


def run_ft(*arguments, folder):
    command = [sys.executable, "-m", "ft", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def generator():
    """The folder's `make_data.py`, by its path: the quickstart has one of that name too."""
    spec = importlib.util.spec_from_file_location("classify_make_data", FOLDER / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_records_are_what_their_generator_makes():
    make_data = generator()
    for seed, name, num_records in ((1, "train", 200), (2, "heldout", 40)):
        made = make_data.render(make_data.make_records(seed, num_records))
        assert (FOLDER / f"{name}.jsonl").read_text("utf-8") == made


def test_it_runs_and_tells_five_records_before_and_after(tmp_path, tiny_encoders):
    small = ("--base-model", tiny_encoders["distilbert"], "--sequence-len", 32)
    few = ("--num-epochs", 1, "--micro-batch-size", 20)
    trained = run_ft("train", FOLDER / "classify.yml", *small, *few, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "labels: Negative 100 (50%), Positive 100 (50%)" in trained.stdout
    assert "5 held-out records, before and after:" in trained.stdout
    asked = run_ft("infer", "classify-out", "--prompt", "it is a mess .", folder=tmp_path)
    assert asked.returncode == 0, asked.stderr
    assert {line.split()[0] for line in asked.stdout.splitlines()} == {"Negative", "Positive"}

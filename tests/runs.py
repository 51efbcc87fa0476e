"""Small real runs for tests: a config, its records, and `ft train` in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from ft.runtime import read_events
from ft.spec import load_spec
from ft.train.claim import claim_run
from ft.train.run import train

QUESTIONS = ["How many heads are older than 56 ?", "What is the largest city?", "Count the tables"]


def write_records(path: Path, count: int) -> Path:
    """know_sql-like records of different lengths."""
    with path.open("w") as file:
        for i in range(count):
            columns = ", ".join(f"c{k} INTEGER" for k in range(1 + i % 5))
            record = {
                "question": f"{QUESTIONS[i % 3]} {i}",
                "context": f"CREATE TABLE t{i} ({columns})",
                "answer": f"SELECT COUNT(*) FROM t{i} WHERE age > {i}",
            }
            file.write(json.dumps(record) + "\n")
    return path


def write_config(folder: Path, base: Path, *, num_records: int = 18, **keys) -> Path:
    """A LoRA run of a few steps; ``keys`` change or add keys, None removes one."""
    data = write_records(folder / "data.jsonl", num_records)
    config = {
        "base_model": str(base),
        "adapter": "lora",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_target_linear": True,
        "datasets": [{"path": str(data), "type": "context_qa.load_v2"}],
        "sequence_len": 256,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler": "linear",
        "optimizer": "adamw_torch",
        "output_dir": str(folder / "out"),
        "seed": 7,
    }
    config = {key: value for key, value in (config | keys).items() if value is not None}
    path = folder / "run.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_labeled(path: Path, count: int, labels=("bad", "good")) -> Path:
    """Texts whose label follows from the words in them."""
    words = ["city", "table", "head", "answer"]
    with path.open("w") as file:
        for i in range(count):
            number = i % len(labels)
            text = f"{QUESTIONS[i % 3]} {words[number]} {'context ' * (i % 5)}{words[number]}"
            file.write(json.dumps({"text": text, "label": labels[number]}) + "\n")
    return path


def write_label_config(folder: Path, base: Path, *, num_records: int = 18, **keys) -> Path:
    """A LoRA run of a classifier; ``keys`` as of `write_config`."""
    labeled = {
        "task_type": "SEQ_CLS",
        "datasets": [
            {
                "path": str(write_labeled(folder / "labeled.jsonl", num_records)),
                "type": "classification",
            }
        ],
        "sequence_len": 32,
    }
    return write_config(folder, base, **(labeled | keys))


def run(config: Path, *arguments: str, overwrite=False, overrides=(), on_event=lambda event: None):
    loaded = load_spec(config, arguments)
    with claim_run(loaded, overwrite=overwrite, overrides=overrides) as claimed:
        return train(claimed, on_event=on_event)


def curve(out: Path) -> list[tuple]:
    """(step, loss, learning rate, gradient norm) of every step, exactly as computed."""
    return [
        (e["step"], e["loss"], e["learning_rate"], e["grad_norm"])
        for e in read_events(out / "events.jsonl")
        if e["event"] == "step"
    ]


def events(out: Path, kind: str) -> list[dict]:
    return [event for event in read_events(out / "events.jsonl") if event["event"] == kind]


def stop_after(step):
    """An audience that sends this process a real signal when the step is reported."""

    def on_event(event):
        if event["event"] == "step" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_event


_STARTED: list[subprocess.Popen] = []


def end_started() -> None:
    """Kills what a test that failed has left running."""
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def start_ft(*arguments, **options) -> subprocess.Popen:
    """`ft` as a process of its own, on one thread; its output is kept."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    command = [sys.executable, "-m", "ft", *map(str, arguments)]
    _STARTED.append(subprocess.Popen(command, env=environment, **(pipes | options)))
    return _STARTED[-1]


def wait_for(condition, process: subprocess.Popen, timeout_s: float = 120) -> None:
    """Until the condition holds; a process that ends first is a failure."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.01)


def reached(out: Path, step: int):
    """Whether the run has reported the step."""
    return lambda: any(each[0] >= step for each in curve(out))

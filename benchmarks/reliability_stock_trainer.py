"""The stock transformers Trainer under the same faults as ours, on the same tiny model.

    python benchmarks/reliability_stock_trainer.py --work DIR [--only save_kills ...]

It resumes as its documentation says: ``train(resume_from_checkpoint=True)``, which takes the newest
checkpoint. Counts are kept in DIR/stock.jsonl; stopped, the command goes on where it was. Results
stand beside ours in reliability.md. Our tests' fork server makes each process a real one that is
there at once; what it runs here is only torch, transformers, accelerate.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/reliability")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from programme import disks  # noqa: E402
from programme.forks import Fork, end_all  # noqa: E402

NUM_RECORDS, NUM_EPOCHS = 18, 8
NOTHING = "nothing"
"""Is missing: shows that the comparison is fair."""
STATE_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
Counts = Counter[str]


# -- in a process of its own --------------------------------------------------------------------


def train(out: str, base: str, resumes: bool, nan_step: int | None = None) -> None:
    """A run of 40 steps with dropout 0.1, a checkpoint after every step, two kept."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Log(TrainerCallback):
        """Every step's figures, as they are told."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                with (Path(out).parent / "log.jsonl").open("a") as file:
                    file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    class Poisoned(Trainer):
        """From one step on, the loss is NaN for three."""

        def compute_loss(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
            loss = super().compute_loss(model, inputs, *given, **named)
            first = nan_step or 10**9
            return loss * torch.nan if first <= self.state.global_step + 1 < first + 3 else loss

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, attention_dropout=0.1)
    draw = random.Random(0)
    rows = [[draw.randrange(5, 200) for _ in range(40)] for _ in range(NUM_RECORDS)]
    arguments = TrainingArguments(
        output_dir=out, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        num_train_epochs=NUM_EPOCHS, learning_rate=1e-3, seed=7, logging_steps=1, save_steps=1,
        save_strategy="steps", save_total_limit=2, report_to="none", use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Poisoned(model=model, args=arguments, train_dataset=data, callbacks=[Log()])
    trainer.train(resume_from_checkpoint=resumes or None)
    trainer.save_model(out)


# -- trials ---------------------------------------------------------------------------------------


class Bench:
    """A folder, a base, and the run that nothing happened to."""

    def __init__(self, work: Path) -> None:
        self.work, self.base = work, work / "base"
        if not self.base.exists():
            import tiny

            tiny.save_tiny_llama(self.base)
        self.reference = work / "reference"
        if not (self.reference / "out/model.safetensors").exists():
            self.fresh("reference")
            code, said = end(self.start(self.reference))
            assert code == 0, said

    def fresh(self, name: str) -> Path:
        """An empty folder."""
        shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / name).mkdir(parents=True)
        return self.work / name

    def start(self, folder: Path, *, nan_step: int | None = None) -> Fork:
        """Trains, or goes on if there is a checkpoint, as a job script would."""
        out = folder / "out"
        resumes = any(out.glob("checkpoint-*"))
        said = folder / "said"
        return Fork(train, str(out), str(self.base), resumes, nan_step, output=said)

    def judge(self, folder: Path) -> Counts:
        """Starts it again: does it go on, and is it then the same run?"""
        code, _ = end(self.start(folder))
        return Counts(
            resumes=int(code == 0), equal=int(code == 0 and curve(folder) == curve(self.reference))
        )


def curve(folder: Path) -> dict[int, tuple[float, float, float]]:
    """Step -> loss, gradient norm, learning rate, as told last."""
    path = folder / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("}")]
    return {e["step"]: (e["loss"], e["grad_norm"], e["learning_rate"]) for e in told}


def end(process: Fork) -> tuple[int, str]:
    """Waits for it."""
    code = process.wait()
    return code, process.said()


def kill_at_random(bench: Bench, seed: int) -> Counts:
    """One kill at a random moment of a run that has saved something."""
    folder, draw = bench.fresh("random"), random.Random(seed)
    process = bench.start(folder)
    process.wait_until(lambda: 2 in curve(folder))
    time.sleep(draw.uniform(0, 1.0))
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return Counts(too_late=1)
    return Counts(kills=1) + bench.judge(folder)


def kill_in_a_save(bench: Bench, seed: int) -> Counts:
    """One kill a moment after the folder of a later checkpoint has appeared."""
    folder, draw = bench.fresh("saves"), random.Random(seed)
    step = draw.randrange(2, 8)
    process = bench.start(folder)
    process.wait_until((folder / f"out/checkpoint-{step}").exists)
    time.sleep(draw.uniform(0, 0.01))
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return Counts(too_late=1)
    return Counts(kills=1) + bench.judge(folder)


def full_disk(bench: Bench, seed: int) -> Counts:
    """A file system that gets full in the middle of a run, and is larger for the next."""
    folder = bench.fresh("disk")
    one = sum(path.stat().st_size for path in newest(bench.reference / "out").iterdir())
    size = int(one * random.Random(seed).uniform(1.2, 2.9))
    with disks.small_disk(folder / "out", size):
        code, said = end(bench.start(folder))
        is_full = "No space left" in said or "os error 28" in said or "iostream error" in said
        disks.enlarge(folder / "out")
        return Counts(disks=int(code != 0), says_why=int(is_full)) + bench.judge(folder)


def missing_file(bench: Bench, name: str) -> Counts:
    """A run that is killed, and one file of its newest checkpoint is gone."""
    folder = bench.fresh("missing")
    process = bench.start(folder)
    process.wait_until(lambda: 6 in curve(folder))
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = sorted((folder / "out").glob("checkpoint-*"), key=step_of)
    shutil.rmtree(checkpoints[-1])  # it may be half there; the one before is whole
    if name == NOTHING:
        return Counts(controls=1, controls_equal=bench.judge(folder)["equal"])
    (checkpoints[-2] / name).unlink()
    return Counts(files=1) + bench.judge(folder)


def nan_loss(bench: Bench, nan_step: int) -> Counts:
    """The loss is NaN for three steps."""
    from safetensors.torch import load_file

    folder = bench.fresh("nan")
    code, _ = end(bench.start(folder, nan_step=nan_step))
    told = [curve(folder)[step][0] for step in range(nan_step, nan_step + 3)]
    model = folder / "out/model.safetensors"
    weights = load_file(model).values() if model.exists() else []
    return Counts(
        runs=1,
        ends_with_0=int(code == 0),
        logged_as_0=int(told[0] == 0.0),
        weights_not_finite=int(any(not tensor.isfinite().all() for tensor in weights)),
    )


def step_of(path: Path) -> int:
    """Of a checkpoint."""
    return int(path.name.removeprefix("checkpoint-"))


def newest(out: Path) -> Path:
    """The checkpoint with the highest number."""
    return max(out.glob("checkpoint-*"), key=step_of)


PARTS: dict[str, tuple[Callable[..., Counts], list[Any]]] = {
    "random_kills": (kill_at_random, list(range(30))),
    "save_kills": (kill_in_a_save, list(range(30))),
    "full_disk": (full_disk, list(range(10))),
    "missing_file": (missing_file, [NOTHING, *STATE_FILES] * 2),
    "nan_loss": (nan_loss, [3, 10]),
}


def main() -> None:
    """Does what is left, and prints the sums."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="*", default=list(PARTS))
    arguments = parser.parse_args()
    bench = Bench(arguments.work.absolute())
    ledger = bench.work / "stock.jsonl"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    records = [json.loads(line) for line in lines]
    for name in arguments.only:
        function, trials = PARTS[name]
        num_done = sum(record["part"] == name for record in records)
        for number, trial in enumerate(trials[num_done:], start=num_done + 1):
            counts = function(bench, trial)
            end_all()
            record = {"part": name, "trial": trial, "counts": dict(counts)}
            records.append(record)
            with ledger.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{name} {number}/{len(trials)}: {dict(counts)}", flush=True)
    for name in PARTS:
        total: Counts = Counter()
        for record in records:
            if record["part"] == name:
                total.update(record["counts"])
        print(f"{name}: {dict(total)}")


if __name__ == "__main__":
    main()

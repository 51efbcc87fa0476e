"""SIGTERM and SIGINT at random moments of every phase of a run, once and twice."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from programme.bench import (
    EVERY_STEP,
    KINDS,
    Bench,
    Life,
    Outcome,
    require_equal_runs,
    start,
    train_to_the_end,
)
from programme.forks import Fork
from runs import events

SECOND_ENDS_WITHIN_S = 2.0
_SHORT = EVERY_STEP | {"num_epochs": 6}
_MANY_HELD_OUT = EVERY_STEP | {
    "num_records": 120, "val_set_size": 100, "eval_steps": 1, "eval_batch_size": 1, "max_steps": 8,
}  # fmt: skip
_MANY_RECORDS = EVERY_STEP | {"num_records": 4000, "max_steps": 5, "val_set_size": None}
_KEYS = {"evaluation": _MANY_HELD_OUT, "tokenization": _MANY_RECORDS}
MOMENTS = ("random", "twice", "save", "evaluation", "tokenization")


def signal_at(bench: Bench, moment: str, seed: int) -> Outcome:
    """One signal (``twice``: two) at a random time of that moment; then the same command again."""
    draw = random.Random(f"{moment} {seed}")
    kind = draw.choice(["lora", "full", "nf4"])
    number = draw.choice([signal.SIGTERM, signal.SIGINT])
    keys = KINDS[kind] | _KEYS.get(moment, _SHORT)
    reference = bench.reference(f"signals-{kind}-{moment}", **keys)
    config = bench.config(f"signals-{moment}-{seed}", **keys | _cache_of(bench, moment, seed))
    out, outcome = config.parent / "out", Outcome()
    life = Life(out)
    process = start(config)
    _WAITS[moment](process, life, draw)
    process.send_signal(number)
    if moment == "twice":
        time.sleep(draw.uniform(0.02, 0.3))
        process.send_signal(number)
    sent = time.monotonic()
    code = process.wait(60)
    took_s = time.monotonic() - sent
    if code == 0:
        outcome.counts["missed"] += 1
    else:
        _require_words(outcome, process, number, out)
        is_quick = moment != "twice" or took_s < SECOND_ENDS_WITHIN_S
        outcome.expect(is_quick, f"{took_s:.1f} s after the second signal")
        outcome.counts["signals"] += 1
    life.end(outcome)
    train_to_the_end(config)
    life.end(outcome)
    require_equal_runs(outcome, reference, out)
    bench.clear(config)
    return outcome


def _require_words(outcome: Outcome, process: Fork, number: int, out: Path) -> None:
    """143 or 130 and what was done; before anything is loaded, or at the second one, the bare end."""
    code, said = process.poll(), process.said()
    outcome.expect(
        code in (128 + number, -number), f"exit code {code}: {said[-1500:]}", left_well=1
    )
    outcome.expect("Traceback" not in said, said[-1500:])
    outcome.counts["outside_of_steps"] += "outside of the training steps" in said
    if "which is saved" in said:
        step = events(out, "interrupted")[-1]["step"]
        path = out / "checkpoints" / f"step-{step:06d}"
        outcome.expect(path.is_dir(), f"step {step} is said to be saved and is not")


def _cache_of(bench: Bench, moment: str, seed: int) -> dict[str, str]:
    """One of its own, in which nothing is found."""
    if moment != "tokenization":
        return {}
    return {"dataset_prepared_path": str(bench.folder / f"signals-{moment}-{seed}" / "tokens")}


def _any_time(process: Fork, life: Life, draw: random.Random) -> None:
    process.wait_until(process.output.exists)  # before, `ft` is not there to hear
    time.sleep(draw.uniform(0, 1.2))


def _in_the_steps(process: Fork, life: Life, draw: random.Random) -> None:
    process.wait_until(life.has_begun)
    time.sleep(draw.uniform(0, 0.3))


def _in_a_save(process: Fork, life: Life, draw: random.Random) -> None:
    step = draw.randrange(1, 6)
    process.wait_until(lambda: any(life.out.glob(f"checkpoints/.tmp-step-{step:06d}-*")))


def _in_an_evaluation(process: Fork, life: Life, draw: random.Random) -> None:
    step = draw.randrange(1, 6)
    process.wait_until(lambda: life.has_told_step(step))
    time.sleep(draw.uniform(0, 0.1))


def _in_tokenization(process: Fork, life: Life, draw: random.Random) -> None:
    process.wait_until(lambda: any(life.out.parent.glob("tokens/*")))
    time.sleep(draw.uniform(0, 0.2))


_WAITS: dict[str, Callable[[Fork, Life, random.Random], None]] = {
    "random": _any_time,
    "twice": _in_the_steps,
    "save": _in_a_save,
    "evaluation": _in_an_evaluation,
    "tokenization": _in_tokenization,
}

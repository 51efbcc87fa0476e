"""kill -9 at random moments, one after the other, until the run is done: nothing may differ."""

from __future__ import annotations

import random
import signal
import time

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
from runs import curve

KILLS_A_CHAIN = 5
_KEYS = EVERY_STEP | {"num_epochs": 12}
_KEYS_OF = {"packed": {"num_epochs": 45}}
"""Some 45 steps, two seconds."""


def chain_of_kills(bench: Bench, kind: str, seed: int, num_kills: int = KILLS_A_CHAIN) -> Outcome:
    """Kills a run at random moments, starting it again each time, and then lets it end."""
    keys = KINDS[kind] | _KEYS | _KEYS_OF.get(kind, {})
    reference = bench.reference(f"kills-{kind}", **keys)
    config = bench.config(f"kills-{kind}-{seed}", **keys)
    out, draw, outcome = config.parent / "out", random.Random(f"{kind} {seed}"), Outcome()
    life = Life(out)
    for number in range(num_kills):
        process = start(config)
        is_last = number == num_kills - 1
        _wait_for_moment(process, life, draw, len(curve(reference)) if is_last else None)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            outcome.expect(process.poll() == 0, f"ended by itself: {process.said()}", too_late=1)
            break
        life.end(outcome)
        outcome.counts["kills"] += 1
    train_to_the_end(config)
    life.end(outcome)
    require_equal_runs(outcome, reference, out)
    bench.clear(config)
    return outcome


def kill_in_a_save(bench: Bench, kind: str, seed: int) -> Outcome:
    """One kill a moment after the staging folder of a checkpoint has appeared."""
    keys = KINDS[kind] | EVERY_STEP | {"num_epochs": 4}
    reference = bench.reference(f"save-kills-{kind}", **keys)
    config = bench.config(f"save-kills-{kind}-{seed}", **keys)
    draw, outcome, life = random.Random(f"{kind} {seed}"), Outcome(), Life(config.parent / "out")
    name = f".tmp-step-{draw.randrange(2, 8):06d}-*"
    process = start(config)
    process.wait_until(lambda: any((life.out / "checkpoints").glob(name)))
    time.sleep(draw.uniform(0, 0.01))
    process.send_signal(signal.SIGKILL)
    outcome.counts["kills"] += process.wait() == -signal.SIGKILL
    life.end(outcome)
    train_to_the_end(config)
    life.end(outcome)
    require_equal_runs(outcome, reference, life.out)
    bench.clear(config)
    return outcome


def _wait_for_moment(process: Fork, life: Life, draw: random.Random, last_step: int | None) -> None:
    """Somewhere while it loads, trains and saves; if ``last_step`` is given, as it ends."""
    if last_step is not None:
        process.wait_until(lambda: life.has_told_step(last_step))
        time.sleep(draw.uniform(0, 0.15))
    elif draw.random() < 0.25:
        time.sleep(draw.uniform(0, 0.4))
    else:
        process.wait_until(life.has_begun)
        time.sleep(draw.uniform(0, 0.5))

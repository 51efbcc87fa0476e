"""Stopped after every step of a run, one run each: whichever step it is, the same run goes on."""

from __future__ import annotations

from pathlib import Path

from ft.runtime import Interrupted
from programme.bench import (
    EVERY_STEP,
    KINDS,
    Bench,
    Life,
    Outcome,
    require_equal_runs,
    train_to_the_end,
)
from programme.forks import Fork
from runs import curve, run, stop_after

_KEYS = EVERY_STEP | {"num_epochs": 3}
_KEYS_OF = {"packed": {"num_epochs": 10}}


def resume_from_every_step(bench: Bench, kind: str, share: int = 0, num_shares: int = 1) -> Outcome:
    """Edges of epochs among them; a checkpoint stands between accumulations, never within one.

    Of several shares each has every so many-th step.
    """
    keys = KINDS[kind] | _KEYS | _KEYS_OF.get(kind, {})
    reference = bench.reference(f"resumes-{kind}", **keys)
    outcome = Outcome()
    for step in range(1 + share, len(curve(reference)), num_shares):
        config = bench.config(f"resumes-{kind}-{step}", **keys)
        life = Life(config.parent / "out")
        process = Fork(_stopped_after, config, step, output=config.with_name("said"))
        outcome.expect(process.wait() == 0, process.said())
        life.end(outcome)
        outcome.expect(life.committed == step, f"stopped after {step}, saved {life.committed}")
        train_to_the_end(config)
        life.end(outcome)
        require_equal_runs(outcome, reference, config.parent / "out")
        outcome.counts["stops"] += 1
        bench.clear(config)
    return outcome


def _stopped_after(config: Path, step: int) -> None:
    try:
        run(config, on_event=stop_after(step))
    except Interrupted:
        return
    raise AssertionError("it was not stopped")

"""`ft train`: from a RunSpec to a finished run directory.

claimed directory -> built run -> newest checkpoint -> room on the disk -> plan -> loop -> weights
"""

from __future__ import annotations

import time
from typing import Any

from ft.data.batches import record_lengths
from ft.model import LoadedModel
from ft.runtime import MachineError, OnEvent, Problem, RunDirectory, process_rank, read_events
from ft.runtime.durable import is_disk_full
from ft.spec import RunSpec
from ft.spec.duration import seconds_of
from ft.train.assembly import build_run
from ft.train.checkpoint import Checkpoint, read_checkpoint
from ft.train.claim import ClaimedRun
from ft.train.determinism import computing_deterministically
from ft.train.examples import before_and_after
from ft.train.loop import TrainingLoop
from ft.train.optimizer import optimizer_in_use, optimizer_state_bytes
from ft.train.record import finish_run
from ft.train.rehearsal import is_out_of_memory, run_as_planned, settle_plan
from ft.train.remedies import out_of_memory
from ft.train.signals import StopRequest
from ft.train.space import SpaceNeed, check_space
from ft.train.teller import Teller


def train(claimed: ClaimedRun, *, on_event: OnEvent) -> dict[str, Any]:
    """Trains in a claimed directory, going on from a checkpoint if there is one.

    Args:
        claimed: From ``claim_run``.
        on_event: Told of everything that happens: what events.jsonl gets, and progress between.

    Returns:
        run.json's ``result``: steps, losses, time.

    Raises:
        UserError: wrong data, or data that changed under a run.
        MachineError: out of memory.
        TrainingError: NaN, divergence.
        Interrupted: a signal, or the end of max_time, after a checkpoint.
    """
    if claimed.is_finished:
        result: dict[str, Any] = claimed.directory.read_run()["result"]
        return result
    teller = Teller(on_event)
    try:
        with computing_deterministically(claimed.spec.training.deterministic):
            return _train_in(claimed, teller)
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full(claimed.directory) from None
        if is_out_of_memory(error):
            raise out_of_memory(claimed.spec, error) from None
        raise
    finally:
        teller.close()


def _train_in(claimed: ClaimedRun, teller: Teller) -> dict[str, Any]:
    run, spec = claimed.directory, claimed.spec
    started = time.perf_counter()
    built = build_run(claimed, teller)
    loop, model, identity = built.loop, built.model, built.identity
    if process_rank() == 0:
        teller.track(spec, run.trackers)
    checkpoint = _newest_checkpoint(loop, teller)
    if checkpoint is not None:
        loop.resume(checkpoint)
    if process_rank() == 0:
        teller.tell("space", **check_space(run.path, _space_need(loop, model, spec)))
    plan = settle_plan(built, run)
    teller.tell("plan", **plan.to_json())
    teller.tell("start", **_start_figures(loop, spec, model))
    state = run_as_planned(built, plan, StopRequest(_deadline_s(claimed)))
    if process_rank() == 0 and (examples := before_and_after(read_events(run.events))):
        teller.tell("examples", **examples)
    total_time_s = time.perf_counter() - started
    result: dict[str, Any] = {}
    if process_rank() == 0:
        result = finish_run(run, model, identity, state, total_time_s=total_time_s)
    loop.accelerator.wait_for_everyone()
    teller.tell("finished", **result)
    loop.accelerator.end_training()  # leaves the group of processes, which NCCL else complains of
    return result


def _deadline_s(claimed: ClaimedRun) -> float | None:
    max_time = claimed.spec.training.max_time
    return None if max_time is None else claimed.started_s + seconds_of(max_time)


def _start_figures(loop: TrainingLoop, spec: RunSpec, model: LoadedModel) -> dict[str, Any]:
    training = spec.training
    in_use = optimizer_in_use(training.optimizer, model.num_trainable, training.optim_args)
    return {
        "step": loop.state.step,
        "num_steps": loop.settings.num_steps,
        **loop.feed.figures(),
        "num_heldout_records": sum(len(record_lengths(row)) for row in loop.heldout_rows or ()),
        "optimizer": training.optimizer,
        "optimizer_in_use": in_use,
        "lr_scheduler": training.lr_scheduler,
        "learning_rate": training.learning_rate,
        "num_processes": loop.accelerator.num_processes,
        "device": model.hardware.kind,
    }


def _newest_checkpoint(loop: TrainingLoop, teller: Teller) -> Checkpoint | None:
    """The one to go on from: one process finds it and sets broken ones aside, all read it."""
    found = None
    if process_rank() == 0:
        found = loop.checkpoints.newest(
            lambda path, why: teller.tell("broken_checkpoint", path=path.name, why=why)
        )
    step = loop.agreement.of_main(0 if found is None else found.state.step)
    if process_rank() == 0 or not step:
        return found
    return read_checkpoint(loop.checkpoints.at_step(step))


def _space_need(loop: TrainingLoop, model: LoadedModel, spec: RunSpec) -> SpaceNeed:
    settings, first = loop.settings, loop.state.step + 1
    return SpaceNeed(
        weights_bytes=model.saved_bytes,
        optimizer_bytes=optimizer_state_bytes(spec.training.optimizer, model.num_trainable),
        num_checkpoints=settings.checkpoints.num_due(
            first, settings.num_steps, loop.feed.steps_per_epoch
        ),
        num_existing=loop.checkpoints.num_there,
        keep=spec.output.save_total_limit,
    )


def _disk_full(run: RunDirectory) -> MachineError:
    return MachineError(
        Problem(
            "no space left on the disk",
            str(run.path),
            fix="free some, then run the same command: it goes on from the last checkpoint; "
            "--save-total-limit 1 keeps fewer of them",
        )
    )

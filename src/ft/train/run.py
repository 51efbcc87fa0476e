"""`ft train`: from a RunSpec to a finished run directory.

claim the directory -> data -> model -> loop (new, or from the newest checkpoint) -> final weights
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from ft.data.batches import TokenRow, join, record_lengths
from ft.data.feed import TrainingData
from ft.data.obtain import token_cache
from ft.data.packing import pack
from ft.data.stream import prepare_training_data
from ft.data.tokenized import TokenizedSet
from ft.evaluate.objective import Objective
from ft.model import (
    Hardware,
    LoadedModel,
    LoadedTokenizer,
    available_memory_bytes,
    build_model,
    choose_precision,
    load_tokenizer,
    probe_hardware,
)
from ft.model.tokenizer_identity import tokenizer_identity
from ft.runtime import (
    EventLog,
    MachineError,
    Problem,
    RunDirectory,
    process_rank,
    read_events,
)
from ft.runtime.durable import is_disk_full
from ft.runtime.trust import trust_code
from ft.spec import RunSpec
from ft.spec.classification import Classification
from ft.spec.duration import seconds_of
from ft.spec.methods import can_recompute, in_four_bits
from ft.train.best import BestBy
from ft.train.cadence import checkpoint_cadence, evaluation_cadence
from ft.train.checkpoint import Checkpoint, CheckpointFolder, read_checkpoint
from ft.train.claim import ClaimedRun
from ft.train.determinism import computing_deterministically
from ft.train.examples import before_and_after
from ft.train.loop import LoopSettings, OnEvent, TrainingLoop
from ft.train.objectives import choose_objective, figures_of, head_of, task_of, text_tuning
from ft.train.optimizer import build_optimizer, optimizer_state_bytes
from ft.train.pinned import with_pinned_base
from ft.train.planning import Planner, RunPlan, apply_plan, layout_of, planner_of, stored_plan
from ft.train.record import begin_run, describe_run, finish_run
from ft.train.rehearsal import is_out_of_memory, rehearse
from ft.train.schedule import build_schedule
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


@dataclass(frozen=True)
class StandIns:
    """What a measurement puts in the place of a run's own parts; the defaults put nothing."""

    tokenizer: LoadedTokenizer | None = None
    data: TrainingData | None = None
    draws_on_device: bool = False
    """Random weights are drawn on the device."""


_NO_STAND_INS = StandIns()


@dataclass(frozen=True)
class BuiltRun:
    """A run whose parts are put together."""

    loop: TrainingLoop
    model: LoadedModel
    identity: dict[str, Any]
    planner: Planner
    plan: RunPlan


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
    teller.tell("start", **_plan_summary(loop, spec, model.hardware))
    state = loop.run(StopRequest(_deadline_s(claimed)))
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


def build_run(claimed: ClaimedRun, teller: Teller, stand_ins: StandIns = _NO_STAND_INS) -> BuiltRun:
    """Data, model and loop, in a directory that says what it holds.

    Args:
        claimed: The directory and the spec.
        teller: Told of data and model; its log begins.
        stand_ins: Take the place of the run's own parts.

    Raises:
        UserError: wrong data, or data that changed under a run.
        torch.OutOfMemoryError: the model does not fit.
    """
    run, spec = claimed.directory, with_pinned_base(claimed)
    hardware = probe_hardware()
    tokenizer = stand_ins.tokenizer or load_tokenizer(
        spec.model, writes=not spec.data.is_classification
    )
    data = stand_ins.data or _prepare_data(spec, claimed.config, tokenizer, teller)
    for layout in data.layouts:
        if layout.source is not None:
            trust_code(layout.source.sha256)
    teller.tell("data", summary=data.report.render(), **data.report.to_json())
    planner = planner_of(
        spec,
        data,
        hardware,
        available_bytes=available_memory_bytes(hardware),
        num_tokens=len(tokenizer.tokenizer),
    )
    plan = _plan_of_run(claimed, planner)
    task = task_of(data.layouts)
    model = _load_model(spec, task, tokenizer, hardware, teller, stand_ins.draws_on_device)
    apply_plan(plan, model)
    objective = choose_objective(spec, data, model, task, plan)
    identity = describe_run(claimed, data, model)
    if process_rank() == 0:
        begin_run(claimed, data, identity)
    events = teller.begin(run.events if process_rank() == 0 else Path(os.devnull))
    checkpoints = CheckpointFolder(run.checkpoints, spec.output.save_total_limit, identity)
    loop = _assemble(checkpoints, spec, data, model, objective, events, teller.show)
    return BuiltRun(loop, model, identity, planner, plan)


def settle_plan(
    built: BuiltRun, run: RunDirectory, on_peak: Callable[[float], None] = lambda peak: None
) -> RunPlan:
    """The plan that holds on the longest batch, in force and written down.

    Args:
        built: The run, before its first step.
        run: Where it is written down.
        on_peak: Told the peak of the longest batch, where it is measured.

    Raises:
        MachineError: nothing fits.
    """
    loop, model, planner, plan = built.loop, built.model, built.planner, built.plan

    def settle(plan: RunPlan) -> None:
        apply_plan(plan, model)
        layout = layout_of(plan, loop.objective.layout, planner.spec)
        loop.objective = text_tuning(planner.spec, layout, model)

    if plan.expected is not None:
        has_state = bool(loop.optimizer.state_dict()["state"])
        to_come = 0.0 if has_state else plan.expected.memory.optimizer
        plan, peak = rehearse(loop, planner, plan, settle, to_come)
        if peak is not None:
            on_peak(peak)
    built.identity["plan"] = plan.to_json()
    if process_rank() == 0:
        run.write_run(built.identity)
    return plan


def _plan_of_run(claimed: ClaimedRun, planner: Planner) -> RunPlan:
    """The plan that the run began with, if it began here; else a new one."""
    run = claimed.directory
    goes_on = not claimed.overwrites and run.state == "unfinished"
    stored = run.read_run().get("plan") if goes_on else None
    if (known := stored_plan(stored, planner)) is not None:
        return known
    plan = planner.plan()
    if stored is None:
        return plan
    words = f"the run began on {stored['made_for']['hardware']} or with other keys: planned anew"
    return replace(plan, words=(*plan.words, words))


def _prepare_data(
    spec: RunSpec, config: Path, tokenizer: LoadedTokenizer, teller: Teller
) -> TrainingData:
    return prepare_training_data(
        spec.data,
        tokenizer=tokenizer.tokenizer,
        seed=spec.training.seed,
        base_dir=config.parent,
        on_progress=teller.progress,
        cache=token_cache(spec.data.dataset_prepared_path, tokenizer_identity(spec.model)),
        on_news=lambda lines: teller.tell("stream", summary=list(lines)),
    )


def _deadline_s(claimed: ClaimedRun) -> float | None:
    max_time = claimed.spec.training.max_time
    return None if max_time is None else claimed.started_s + seconds_of(max_time)


def _load_model(
    spec: RunSpec,
    task: Classification | None,
    tokenizer: LoadedTokenizer,
    hardware: Hardware,
    teller: Teller,
    draws_on_device: bool,
) -> LoadedModel:
    teller.progress("loading model", 0, None)
    precision = choose_precision(spec.precision, hardware, trains_all=spec.adapter.adapter is None)
    model = build_model(
        spec.model,
        spec.adapter,
        precision,
        None,
        tokenizer,
        hardware=hardware,
        seed=spec.training.seed,
        sequence_len=spec.data.sequence_len,
        draws_on_device=draws_on_device,
        head=head_of(spec, task),
    )
    teller.tell(
        "model",
        base_model=spec.model.base_model,
        base_revision=model.base_revision,
        num_parameters=model.num_parameters,
        num_trainable=model.num_trainable,
        hardware=hardware.name,
        precision=precision.compute,
        autocast=precision.autocast,
        attention=model.attention.implementation,
        attention_reason=model.attention.reason,
        notes=list(model.notes),
    )
    wants_compilation = spec.training.torch_compile
    if hardware.kind == "cuda" if wants_compilation == "auto" else wants_compilation:
        model.compile(lambda why: teller.tell("line", text=_NOT_COMPILED.format(why=why)))
    return model


_NOT_COMPILED = "note: the layers run uncompiled, and slower: {why}"


def _assemble(
    checkpoints: CheckpointFolder,
    spec: RunSpec,
    data: TrainingData,
    model: LoadedModel,
    objective: Objective,
    events: EventLog,
    on_event: OnEvent,
) -> TrainingLoop:
    """Puts the loop's parts together."""
    training = spec.training
    AcceleratorState._reset_state()  # a former run in this process may have had another precision
    patience_of_ranks = InitProcessGroupKwargs(timeout=timedelta(seconds=training.ddp_timeout))
    accelerator = Accelerator(
        mixed_precision=model.precision.autocast,
        cpu=model.hardware.kind == "cpu",
        kwargs_handlers=[patience_of_ranks],
    )
    feed = data.feed(
        training, sequence_len=spec.data.sequence_len, num_processes=accelerator.num_processes
    )
    steps_per_epoch = feed.steps_per_epoch
    num_steps = training.max_steps or math.ceil(training.num_epochs * (steps_per_epoch or 0))
    model.attached.begin(num_steps)
    optimizer = build_optimizer(training, model.trainable_parameters(), accelerator.device)
    schedule = build_schedule(training, optimizer, num_steps)
    prepared_model, optimizer = accelerator.prepare(model.model, optimizer)
    patience = spec.evaluation.early_stopping_patience
    return TrainingLoop(
        accelerator=accelerator,
        model=prepared_model,
        weights=model,
        optimizer=optimizer,
        schedule=schedule,
        objective=objective,
        feed=feed,
        heldout_rows=_heldout_rows(data.heldout, spec),
        settings=LoopSettings(
            num_steps=num_steps,
            seed=training.seed,
            max_grad_norm=training.max_grad_norm,
            logging_steps=spec.output.logging_steps,
            evaluation=evaluation_cadence(spec.evaluation, num_steps, steps_per_epoch),
            checkpoints=checkpoint_cadence(spec.output, num_steps, steps_per_epoch),
            eval_batch_size=spec.evaluation.eval_batch_size or training.micro_batch_size,
            early_stopping_patience=patience,
            keeps_best=spec.evaluation.load_best_model_at_end or patience is not None,
            best_by=BestBy.of(spec.evaluation, figures_of(objective)),
            loss_watchdog_threshold=training.loss_watchdog_threshold,
            loss_watchdog_patience=training.loss_watchdog_patience,
            reads_every_step=model.attached.follows_updates,
        ),
        checkpoints=checkpoints,
        events=events,
        on_event=on_event,
        after_update=model.attached.after_update,
    )


def _heldout_rows(heldout: TokenizedSet | None, spec: RunSpec) -> Sequence[TokenRow] | None:
    """The rows to measure on: records, or packs of them."""
    is_packed = spec.evaluation.eval_sample_packing
    if heldout is None or not (spec.training.sample_packing if is_packed is None else is_packed):
        return heldout
    packs = pack(heldout.lengths, spec.data.sequence_len).packs
    return [join([heldout[i] for i in records]) for records in packs]


def _plan_summary(loop: TrainingLoop, spec: RunSpec, hardware: Hardware) -> dict[str, Any]:
    return {
        "step": loop.state.step,
        "num_steps": loop.settings.num_steps,
        **loop.feed.figures(),
        "num_heldout_records": sum(len(record_lengths(row)) for row in loop.heldout_rows or ()),
        "optimizer": spec.training.optimizer,
        "lr_scheduler": spec.training.lr_scheduler,
        "learning_rate": spec.training.learning_rate,
        "num_processes": loop.accelerator.num_processes,
        "device": hardware.kind,
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


def out_of_memory(spec: RunSpec, error: Exception) -> MachineError:
    """The cheapest change that lowers the peak, results unchanged if possible."""
    training, adapter = spec.training, spec.adapter.adapter
    if training.micro_batch_size > 1:
        half = training.micro_batch_size // 2
        steps = training.gradient_accumulation_steps * training.micro_batch_size // half
        options = f"--micro-batch-size {half} --gradient-accumulation-steps {steps}"
        fix = f"same results in less memory: {options}"
    elif training.gradient_checkpointing is False and can_recompute(adapter):
        fix = "same results in less memory, about a third slower: --gradient-checkpointing true"
    elif adapter is None:
        fix = "train an adapter instead: --adapter qlora --load-in-4bit true"
    elif not spec.model.load_in_4bit and (there := in_four_bits(adapter)):
        fix = f"hold the base in 4 bits: --adapter {there} --load-in-4bit true"
    else:
        fix = f"shorter records: --sequence-len {spec.data.sequence_len // 2}"
    what = str(error).split(". ")[0]
    return MachineError(Problem(f"out of memory: {what}", fix=fix))

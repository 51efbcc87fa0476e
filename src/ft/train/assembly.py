"""A run put together from its parts, for whoever trains with it or measures it.

data -> plan -> model -> objective -> optimizer, schedule, loop
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch.nn.parallel import DistributedDataParallel

from ft.data.batches import TokenRow, join
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
from ft.runtime import EventLog, OnEvent, process_rank
from ft.runtime.trust import trust_code
from ft.spec import RunSpec
from ft.spec.classification import Classification
from ft.train.best import BestBy
from ft.train.cadence import checkpoint_cadence, evaluation_cadence
from ft.train.checkpoint import CheckpointFolder
from ft.train.claim import ClaimedRun
from ft.train.loop import LoopSettings, TrainingLoop
from ft.train.objectives import choose_objective, figures_of, head_of, task_of
from ft.train.optimizer import build_optimizer
from ft.train.pinned import with_pinned_base
from ft.train.planning import Planner, RunPlan, apply_plan, plan_of_run, planner_of
from ft.train.record import begin_run, describe_run
from ft.train.schedule import build_schedule
from ft.train.teller import Teller
from ft.train.workload import is_compiled


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
    plan = plan_of_run(claimed, planner)
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
    if is_compiled(spec, hardware):
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
    if isinstance(prepared_model, DistributedDataParallel):
        # Buffers never change (tables of positions, packed weights): no use in sending them around.
        prepared_model.broadcast_buffers = False
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

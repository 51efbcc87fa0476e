"""`ft train`: from a RunSpec to a finished run directory.

claim the directory -> data -> model -> loop (new, or from the newest checkpoint) -> final weights
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ft.data.batches import Flat, Layout, Padded, StepPlan
from ft.data.prepare import PreparedData, prepare_data
from ft.evaluate.objective import SupervisedTuning
from ft.model import (
    Hardware,
    LoadedModel,
    LoadedTokenizer,
    apply_patches,
    build_model,
    choose_precision,
    load_tokenizer,
    probe_hardware,
)
from ft.runtime import (
    EventLog,
    MachineError,
    Problem,
    RunDirectory,
    UserError,
    describe_environment,
    process_rank,
)
from ft.runtime.durable import STAGING_PREFIX, is_disk_full, staged_folder, write_json
from ft.runtime.trust import trust_code
from ft.spec import RunSpec, dump_spec
from ft.train.cadence import checkpoint_cadence, evaluation_cadence
from ft.train.checkpoint import CheckpointFolder, TrainerState
from ft.train.claim import ClaimedRun
from ft.train.loop import LoopSettings, OnEvent, TrainingLoop
from ft.train.optimizer import build_optimizer, build_schedule

RUN_FORMAT = 1
NUM_PROBES, PROBE_TOKENS = 8, 128


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
        TrainingError: NaN.
        Interrupted: a signal, after a checkpoint.
    """
    if claimed.is_finished:
        result: dict[str, Any] = claimed.directory.read_run()["result"]
        return result
    teller = _Teller(on_event)
    try:
        return _train_in(claimed, teller)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(claimed.spec, error) from None
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full(claimed.directory) from None
        raise
    finally:
        teller.close()


class _Teller:
    """Shows events as they come, and keeps them in events.jsonl from the moment the run begins.

    What goes wrong before that (data, model) leaves no trace in the directory.
    """

    def __init__(self, show: OnEvent) -> None:
        self.show = show
        self.log: EventLog | None = None
        self._early: list[dict[str, Any]] = []

    def tell(self, event: str, **values: Any) -> None:
        if self.log is not None:
            self.show(self.log.append(event, **values))
        else:
            self._early.append({"event": event, **values})
            self.show(self._early[-1])

    def progress(self, phase: str, done: int, total: int | None) -> None:
        self.show({"event": "progress", "phase": phase, "done": done, "total": total})

    def begin(self, path: Path) -> EventLog:
        """Opens the log and writes what was told before."""
        self.log = EventLog(path)
        for event in self._early:
            self.log.append(**event)
        return self.log

    def close(self) -> None:
        if self.log is not None:
            self.log.close()


def _train_in(claimed: ClaimedRun, teller: _Teller) -> dict[str, Any]:
    run, spec = claimed.directory, claimed.spec
    started = time.perf_counter()
    hardware = probe_hardware()
    tokenizer = load_tokenizer(spec.model)
    data = prepare_data(
        spec.data,
        tokenizer=tokenizer.tokenizer,
        seed=spec.training.seed,
        base_dir=claimed.config.parent,
        on_progress=teller.progress,
    )
    for layout in data.layouts:
        if layout.source is not None:
            trust_code(layout.source.sha256)
    teller.tell("data", summary=data.report.render(), **data.report.to_json())
    model = _load_model(spec, tokenizer, hardware, teller)
    identity = _identity(claimed, data, model)
    if process_rank() == 0:
        _begin(claimed, data, identity)
    events = teller.begin(run.events if process_rank() == 0 else Path(os.devnull))
    loop = _assemble(run, spec, data, model, events, teller.show)
    checkpoint = loop.checkpoints.newest(
        lambda path, why: teller.tell("broken_checkpoint", path=path.name, why=why)
    )
    if checkpoint is not None:
        loop.resume(checkpoint)
    teller.tell("start", **_plan_summary(loop, spec, hardware))
    state = loop.run()
    return _finish(run, model, identity, state, loop, total_time_s=time.perf_counter() - started)


def _load_model(
    spec: RunSpec, tokenizer: LoadedTokenizer, hardware: Hardware, teller: _Teller
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
        gradient_checkpointing=bool(spec.training.gradient_checkpointing),
        sequence_len=spec.data.sequence_len,
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
    return model


def _assemble(
    run: RunDirectory,
    spec: RunSpec,
    data: PreparedData,
    model: LoadedModel,
    events: EventLog,
    on_event: OnEvent,
) -> TrainingLoop:
    """Puts the loop's parts together."""
    training = spec.training
    AcceleratorState._reset_state()  # a former run in this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=model.precision.autocast, cpu=model.hardware.kind == "cpu"
    )
    plan = StepPlan(
        len(data.train),
        training.micro_batch_size,
        training.gradient_accumulation_steps,
        accelerator.num_processes,
        training.seed,
    )
    num_steps = training.max_steps or -int(-training.num_epochs * plan.steps_per_epoch // 1)
    parameters = [parameter for _, parameter in model.trainable_parameters()]
    optimizer = build_optimizer(training, parameters, accelerator.device)
    schedule = build_schedule(training, optimizer, num_steps)
    prepared_model, optimizer = accelerator.prepare(model.model, optimizer)
    steps_per_epoch = plan.steps_per_epoch
    patience = spec.evaluation.early_stopping_patience
    return TrainingLoop(
        accelerator=accelerator,
        model=prepared_model,
        weights=model,
        optimizer=optimizer,
        schedule=schedule,
        objective=SupervisedTuning(_layout(spec, model)),
        train_rows=data.train,
        heldout_rows=data.heldout,
        plan=plan,
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
        ),
        checkpoints=CheckpointFolder(run.checkpoints, spec.output.save_total_limit),
        events=events,
        on_event=on_event,
    )


def _layout(spec: RunSpec, model: LoadedModel) -> Layout:
    """Without pad tokens where the attention keeps records apart by itself."""
    if model.attention.is_varlen:
        return Flat(spec.data.sequence_len)
    return Padded(model.tokenizer.tokenizer.pad_token_id)


def _identity(claimed: ClaimedRun, data: PreparedData, model: LoadedModel) -> dict[str, Any]:
    """What run.json says of the run before its first step."""
    return {
        "format": RUN_FORMAT,
        "finished": False,
        "files": [],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": str(claimed.config.resolve()),
        "base_model": claimed.spec.model.base_model,
        "base_revision": model.base_revision,
        "data": {
            "fingerprint": data.train.fingerprint(),
            "num_train_records": len(data.train),
            "num_heldout_records": len(data.heldout) if data.heldout is not None else 0,
        },
        "probe_input_ids": _probes(data),
        "precision": model.precision.compute,
        "attention": model.attention.implementation,
        "environment": describe_environment() | {"hardware": model.hardware.name},
        "patches": apply_patches(),
    }


def _probes(data: PreparedData) -> list[list[int]]:
    """A few records' token ids, for `ft merge` to compare the models on without the data."""
    rows = data.heldout if data.heldout is not None and len(data.heldout) else data.train
    return [rows[i].input_ids[:PROBE_TOKENS].tolist() for i in range(min(NUM_PROBES, len(rows)))]


def _begin(claimed: ClaimedRun, data: PreparedData, identity: dict[str, Any]) -> None:
    """Writes what the run is, over a former one if that is asked for.

    Raises:
        UserError: the run that is there goes on, but its data changed.
    """
    run = claimed.directory
    if claimed.overwrites:
        run.clear()
    elif run.state == "unfinished":
        before = run.read_run()["data"]["fingerprint"]
        if before != identity["data"]["fingerprint"]:
            raise UserError(
                Problem(
                    "the data changed since this run began",
                    str(run.path),
                    fix="restore it, set another --output-dir, or start anew with --overwrite",
                )
            )
    run.write_resolved_spec(dump_spec(claimed.spec))
    layouts = [layout.to_json() for layout in data.layouts]
    write_json(run.prompt_file, {"format": 1, "layouts": layouts})
    run.write_run(identity)


def _plan_summary(loop: TrainingLoop, spec: RunSpec, hardware: Hardware) -> dict[str, Any]:
    plan, settings = loop.plan, loop.settings
    return {
        "step": loop.state.step,
        "num_steps": settings.num_steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "records_per_step": plan.records_per_step,
        "num_train_records": plan.num_records,
        "num_heldout_records": len(loop.heldout_rows) if loop.heldout_rows is not None else 0,
        "optimizer": spec.training.optimizer,
        "lr_scheduler": spec.training.lr_scheduler,
        "learning_rate": spec.training.learning_rate,
        "num_processes": loop.accelerator.num_processes,
        "device": hardware.kind,
    }


def _finish(
    run: RunDirectory,
    model: LoadedModel,
    identity: dict[str, Any],
    state: TrainerState,
    loop: TrainingLoop,
    *,
    total_time_s: float,
) -> dict[str, Any]:
    """Moves the final weights into the run directory and marks the run as finished."""
    result = {
        "num_steps": state.step,
        "num_tokens": state.num_tokens_seen,
        "num_skipped_steps": state.num_skipped_steps,
        "best_loss": state.best_loss,
        "best_step": state.best_step,
        "is_stopped_early": state.is_stopped_early,
        "train_time_s": round(state.train_time_s, 2),
        "total_time_s": round(total_time_s, 2),
    }
    if loop.accelerator.is_main_process:
        files = _publish(run.path, [model.save_weights, model.tokenizer.tokenizer.save_pretrained])
        run.write_run({**identity, "finished": True, "files": files, "result": result})
    loop.accelerator.wait_for_everyone()
    loop.events.append("finished", **result)
    return result


def _publish(folder: Path, writers: list[Callable[[Path], Any]]) -> list[str]:
    """Writes files aside, flushes them, and moves each into the folder; gives their names."""
    final = folder / f"{STAGING_PREFIX}final-{os.getpid()}"
    with staged_folder(final) as staging:
        for write in writers:
            write(staging)
    names = sorted(path.name for path in final.iterdir())
    for name in names:
        (final / name).replace(folder / name)
    final.rmdir()
    return names


def _disk_full(run: RunDirectory) -> MachineError:
    return MachineError(
        Problem(
            "no space left on the disk",
            str(run.path),
            fix="free some, then run the same command: it goes on from the last checkpoint; "
            "--save-total-limit 1 keeps fewer of them",
        )
    )


def _out_of_memory(spec: RunSpec, error: Exception) -> MachineError:
    """The cheapest change that lowers the peak, results unchanged if possible."""
    training = spec.training
    if training.micro_batch_size > 1:
        half = training.micro_batch_size // 2
        steps = training.gradient_accumulation_steps * training.micro_batch_size // half
        options = f"--micro-batch-size {half} --gradient-accumulation-steps {steps}"
        fix = f"same results in less memory: {options}"
    elif not training.gradient_checkpointing:
        fix = "same results in less memory, about a third slower: --gradient-checkpointing true"
    elif spec.adapter.adapter is None:
        fix = "train an adapter instead: --adapter qlora --load-in-4bit true"
    elif not spec.model.load_in_4bit:
        fix = "hold the base in 4 bits: --adapter qlora --load-in-4bit true"
    else:
        fix = f"shorter records: --sequence-len {spec.data.sequence_len // 2}"
    what = str(error).split(". ")[0]
    return MachineError(Problem(f"out of memory: {what}", fix=fix))

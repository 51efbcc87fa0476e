"""`ft bench`: some steps of a config's own run, on random weights of the real shape.

spec, as ft train takes it     but: random weights, a folder that is thrown away, no evaluation
train.assembly.build_run       data, plan, model and loop as they are
TrainingLoop.run               with a clock watching
limits                         what the device could do at best, in the same shapes
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ft.bench import Records
from ft.bench.clock import StepClock
from ft.bench.limits import DeviceLimits, PassLimits, measure_device
from ft.bench.spec import throwaway
from ft.bench.workload import PassShape, Workload, read_workload
from ft.data.synthetic import RowKind, synthetic_data
from ft.model import LoadedTokenizer, load_config, load_tokenizer, probe_hardware
from ft.model.stand_in_tokenizer import stand_in_tokenizer
from ft.model.tokenizer_identity import tokenizer_identity
from ft.runtime import Interrupted, OnEvent, Problem, UserError
from ft.spec import LoadedSpec, RunSpec
from ft.train.assembly import BuiltRun, StandIns, build_run
from ft.train.claim import ClaimedRun, claim_run
from ft.train.determinism import computing_deterministically
from ft.train.rehearsal import is_out_of_memory, run_as_planned, settle_plan
from ft.train.remedies import out_of_memory
from ft.train.signals import StopRequest
from ft.train.teller import Teller

_KINDS: dict[Records, RowKind] = {Records.FULL: "full", Records.SHORT: "short"}
_SHORT_LENGTH = 40
"""No synthetic short row has fewer tokens."""


@dataclass(frozen=True)
class BenchOptions:
    """How it is measured.

    Attributes:
        num_steps: Optimizer steps that count.
        num_warmup_steps: Those before them.
        records: What goes through the model; settled.
    """

    num_steps: int
    num_warmup_steps: int
    records: Records


@dataclass(frozen=True)
class Measured:
    """All that was measured; ``ft.bench.record`` makes a table of it.

    Attributes:
        records: What went through.
        facts: What the run told of its ``model`` (hardware, precision, attention) and its ``plan``.
        clock: The steps.
        pass_shape: What a forward pass held, on average.
        workload: What it had to compute.
        device_limits: The device's rates.
        pass_limits: The least time of a pass.
    """

    records: Records
    facts: dict[str, dict[str, Any]]
    clock: StepClock
    pass_shape: PassShape
    workload: Workload
    device_limits: DeviceLimits
    pass_limits: PassLimits


def measure(loaded: LoadedSpec, options: BenchOptions, *, on_event: OnEvent) -> Measured:
    """Runs the steps and the limits; leaves nothing on the disk.

    Args:
        loaded: The config.
        options: How it is measured.
        on_event: Told of what happens, as by `ft train`.

    Raises:
        UserError: the config's data or model can't be had.
        MachineError: out of memory.
        Interrupted: a signal came.
    """
    facts: dict[str, dict[str, Any]] = {}

    def note(event: dict[str, Any]) -> None:
        if event["event"] in ("model", "plan"):
            facts[event["event"]] = dict(event)
        on_event(event)

    try:
        with tempfile.TemporaryDirectory(prefix="ft-bench-") as folder:
            ran = _run(throwaway(loaded, Path(folder)), options, note)
        on_event({"event": "progress", "phase": "measuring the device", "done": 0, "total": None})
        gc.collect()
        if ran.device.type == "cuda":
            torch.cuda.empty_cache()
        limits = measure_device(
            ran.workload,
            ran.pass_shape,
            ran.dtype,
            ran.device,
            in_4bit=loaded.spec.model.load_in_4bit,
        )
        facts["model"]["base_model"] = loaded.spec.model.base_model  # as the config names it
    except Interrupted as stopped:  # whose own words promise a checkpoint
        raise Interrupted(stopped.signal_number, "the measurement was stopped") from None
    return Measured(options.records, facts, ran.clock, ran.pass_shape, ran.workload, *limits)


@dataclass(frozen=True)
class _Ran:
    clock: StepClock
    pass_shape: PassShape
    workload: Workload
    dtype: torch.dtype
    device: torch.device


def _run(loaded: LoadedSpec, options: BenchOptions, on_event: OnEvent) -> _Ran:
    """The steps; the model is gone when this returns."""
    teller = Teller(on_event)
    try:
        with (
            computing_deterministically(loaded.spec.training.deterministic),
            claim_run(loaded, overwrite=False) as claimed,
        ):
            return _run_in(claimed, options, teller)
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(loaded.spec, error) from None
        raise
    finally:
        teller.close()


def _run_in(claimed: ClaimedRun, options: BenchOptions, teller: Teller) -> _Ran:
    if claimed.spec.data.is_classification:
        raise UserError(Problem("ft bench measures models that write, not yet those of SEQ_CLS"))
    clock = StepClock(
        torch.device(probe_hardware().kind), options.num_warmup_steps, options.num_steps
    )
    training = claimed.spec.training.model_copy(update={"max_steps": clock.num_all_steps})
    spec = claimed.spec.model_copy(update={"training": training})
    claimed = dataclasses.replace(claimed, spec=spec)
    built = build_run(claimed, teller, _stand_ins(spec, options.records))
    loop = built.loop
    loop.watch = clock
    loop.settings = dataclasses.replace(loop.settings, saves=False)
    plan = settle_plan(built, claimed.directory)
    teller.tell("plan", **plan.to_json())
    run_as_planned(built, plan, StopRequest())
    sizes = {name: weight.numel() for name, weight in built.model.trainable_parameters()}
    workload = read_workload(load_config(spec.model), sizes)
    return _Ran(
        clock,
        _pass_shape(clock, built),
        workload,
        built.model.precision.compute_dtype,
        built.model.device,
    )


def _pass_shape(clock: StepClock, built: BuiltRun) -> PassShape:
    """Means over the counted steps; the records' mean length over all steps."""
    steps = clock.counted_steps()
    num_passes = sum(step.num_passes for step in steps)
    num_tokens = sum(step.num_tokens for step in steps) / num_passes
    num_trained_tokens = sum(step.num_trained_tokens for step in steps) / num_passes
    state = built.loop.state
    record_length = state.num_tokens_seen / state.num_records_seen
    return PassShape(num_tokens, num_trained_tokens, num_tokens / record_length)


def _stand_ins(spec: RunSpec, records: Records) -> StandIns:
    """What the measured run does not take from its config."""
    if records == Records.OWN:
        return StandIns(draws_on_device=True)
    vocab_size = load_config(spec.model).get_text_config().vocab_size
    data = synthetic_data(
        _KINDS[records],
        _num_rows(spec, records),
        sequence_len=spec.data.sequence_len,
        vocab_size=vocab_size,
        seed=spec.training.seed,
    )
    return StandIns(_tokenizer_at_hand(spec, vocab_size), data, draws_on_device=True)


def _tokenizer_at_hand(spec: RunSpec, vocab_size: int) -> LoadedTokenizer:
    """The model's own where it is on this machine; tokens are drawn, so any other does."""
    if tokenizer_identity(spec.model) is not None:
        try:
            return load_tokenizer(spec.model)
        except UserError:  # damaged, or without an end token: `ft train` will say so
            pass
    return stand_in_tokenizer(vocab_size)


def _num_rows(spec: RunSpec, records: Records) -> int:
    """Enough that no row comes twice, packed or not."""
    training = spec.training
    steps = training.max_steps or 1
    rows = steps * training.micro_batch_size * training.gradient_accumulation_steps
    is_packed = training.sample_packing and records == Records.SHORT
    return rows * max(spec.data.sequence_len // _SHORT_LENGTH, 1) if is_packed else rows

"""The longest batch, once, before the first step: does the plan hold?

Forward and backward over the rows of the largest pass that could come; its gradients are thrown
away. Each pass of the loop puts the generators where its counters say, so nothing that follows is
different for it. Where memory runs out, or more is taken than there is, a tighter plan is tried.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from ft.data.feed import Feed, FeedRow, StoredFeed
from ft.runtime import RunDirectory, process_rank
from ft.train.assembly import BuiltRun
from ft.train.checkpoint import TrainerState
from ft.train.loop import TrainingLoop
from ft.train.objectives import text_tuning
from ft.train.planning import HOST_COPY_BYTES, Planner, RunPlan, apply_plan, layout_of
from ft.train.signals import StopRequest

_FEWEST_TOKENS = 2


@dataclass(frozen=True, eq=False)
class _MadeRow:
    """A row of a length, all trained, of a token that every vocabulary has."""

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]


def longest_rows(feed: Feed, pass_tokens: int, sequence_len: int) -> list[FeedRow]:
    """Rows of a pass that none is larger than; one row at least.

    Args:
        feed: The run's rows. Where they are not known, full rows are made.
        pass_tokens: Room of a pass.
        sequence_len: Tokens of a full row.
    """
    if not isinstance(feed, StoredFeed):
        ids = np.ones(max(sequence_len, _FEWEST_TOKENS), dtype=np.int32)
        return [[_MadeRow(ids, ids)]] * max(1, pass_tokens // sequence_len)
    plan = feed.plan
    count = plan.rows_per_step // plan.num_processes
    if plan.packing is not None:
        rows = plan.rows_of(0)
        rows = sorted(rows, key=lambda row: -plan.num_tokens(row))[:count]
    else:
        rows = [(int(i),) for i in np.argsort(-plan.lengths, kind="stable")[:count]]
    chosen = _within(rows, [plan.num_tokens(row) for row in rows], pass_tokens)
    return [[feed.examples[record] for record in row] for row in chosen]


def _within(
    rows: Sequence[tuple[int, ...]], lengths: Sequence[int], room: int
) -> list[tuple[int, ...]]:
    """From the front as many as fit, one at least."""
    total = 0
    chosen: list[tuple[int, ...]] = []
    for row, length in zip(rows, lengths, strict=True):
        if chosen and total + length > room:
            break
        chosen.append(row)
        total += length
    return chosen


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
    loop, planner, plan = built.loop, built.planner, built.plan
    if plan.expected is not None:
        has_state = bool(loop.optimizer.state_dict()["state"])
        to_come = 0.0 if has_state else plan.expected.memory.optimizer
        settle = partial(put_in_force, built=built)
        plan, peak = rehearse(loop, planner, plan, settle, to_come)
        if peak is not None:
            on_peak(peak)
    built.identity["plan"] = plan.to_json()
    if process_rank() == 0:
        run.write_run(built.identity)
    return plan


def put_in_force(plan: RunPlan, built: BuiltRun) -> None:
    """Has layers run and passes cut as the plan says, before the first step."""
    apply_plan(plan, built.model)
    maker, spec = built.loop.maker, built.planner.spec
    layout = layout_of(plan, maker.objective.layout, spec)
    maker.objective = text_tuning(spec, layout, built.model)


def run_as_planned(built: BuiltRun, plan: RunPlan, stop: StopRequest) -> TrainerState:
    """The loop, to its end; what runs out of memory there is told with a change that takes less.

    Raises:
        MachineError: out of memory.
        TrainingError: NaN, divergence.
        Interrupted: as `stop` asks.
    """
    try:
        return built.loop.run(stop)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise built.planner.ran_out(plan, error) from None


def rehearse(
    loop: TrainingLoop,
    planner: Planner,
    plan: RunPlan,
    settle: Callable[[RunPlan], None],
    optimizer_bytes: float,
) -> tuple[RunPlan, float | None]:
    """Tries the longest batch, and tighter plans until one holds.

    Args:
        loop: Whole, before its first step.
        planner: Makes tighter plans.
        plan: The one in force.
        settle: Puts another one in force.
        optimizer_bytes: What the optimizer will still allocate.

    Returns:
        The plan that holds, and the peak that was measured (None on a CPU).

    Raises:
        MachineError: nothing fits; with the cheapest change that would.
    """
    while True:
        peak, ran_out = _try(loop, planner, plan, int(optimizer_bytes) + HOST_COPY_BYTES)
        needed = None if peak is None else peak + optimizer_bytes
        is_over = needed is not None and needed > planner.available_bytes
        if not loop.agreement.any(ran_out or is_over):
            return plan, peak
        tighter = planner.tighter(plan, None if ran_out else needed)
        if tighter is None:
            if not loop.agreement.any(ran_out):
                return plan, peak
            raise planner.does_not_fit(None)
        plan = tighter
        settle(plan)


def _try(
    loop: TrainingLoop, planner: Planner, plan: RunPlan, room_bytes: int
) -> tuple[float | None, bool]:
    """The peak of the longest batch (None on a CPU), and whether memory ran out.

    On a CPU, where a peak is not told, so many bytes are taken beside it: what is still to come.
    """
    device = loop.accelerator.device
    is_cuda = device.type == "cuda"
    rows = longest_rows(loop.feed, plan.choice.pass_tokens, planner.spec.data.sequence_len)
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        to_come = torch.empty(0 if is_cuda else room_bytes, dtype=torch.uint8)
        loop.rehearse(rows)
        if plan.has_several_passes:
            loop.rehearse(rows)  # with the gradients of the first one there
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        ran_out = True
    else:
        del to_come
        ran_out = False
    loop.forget_gradients()
    gc.collect()
    peak = float(torch.cuda.max_memory_allocated(device)) if is_cuda else None
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return peak, ran_out


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: CUDA's own class, the CPU's words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)

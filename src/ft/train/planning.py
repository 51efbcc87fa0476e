"""A run's plan: made before its model is loaded, kept with it, made anew if memory falls short.

A plan changes no result: it says which layers are recomputed in the backward pass, which keep their
dequantized weights, and how many tokens a pass holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ft.data.batches import Flat, Layout, Padded
from ft.data.feed import TrainingData
from ft.model import Hardware, LoadedModel
from ft.model.base import load_config
from ft.model.build import recompute_every_layer
from ft.plan import Budget, Choice, Planned, RunNeed, card_of, choose, least, planned
from ft.plan.memory import MARGIN, MemoryParts
from ft.runtime import MachineError, Problem
from ft.runtime.sizes import memory_size
from ft.spec import RunSpec
from ft.train.claim import ClaimedRun
from ft.train.remedies import cheapest_change, cheapest_change_of_running, out_of_memory, ran_out
from ft.train.workload import NOT_COUNTED, Rows, need_of, recompute_of, rows_of_data

_AMPLE = 4
"""So many times a generous estimate: then nothing needs to be counted."""

_SMALLER = 0.9
"""Of what was expected of a plan that did not hold: the next one is to take at most that."""

HOST_COPY_BYTES = 3 * 2**26
"""Where the device is the host: what a checkpoint takes of it beside the run: its copy of an
adapter, 64 MiB at a time, and the addresses that its thread's heap sets aside."""


@dataclass(frozen=True)
class RunPlan:
    """What was decided, and what is expected of it."""

    choice: Choice
    num_layers: int
    available_bytes: float
    """For torch to allocate, on this machine, as the run began."""
    longest_row: int
    """Tokens of the longest row."""
    made_for: dict[str, Any]
    """The device, and the keys that a plan depends on: with others it is made anew."""
    has_several_passes: bool = False
    """An optimizer step may take more than one pass."""
    expected: Planned | None = None
    """None where memory is ample, or the model could not be counted."""
    words: tuple[str, ...] = ()
    """What there is to say about it."""

    def to_json(self) -> dict[str, Any]:
        """For run.json and events.jsonl."""
        expected = self.expected
        return {
            **asdict(self.choice),
            "num_layers": self.num_layers,
            "longest_row": self.longest_row,
            "made_for": self.made_for,
            "has_several_passes": self.has_several_passes,
            "available_bytes": round(self.available_bytes),
            "peak_bytes": None if expected is None else round(expected.memory.total),
            "parts": None if expected is None else _rounded(asdict(expected.memory)),
            "step_time_s": None if expected is None else expected.step_time_s,
            "words": list(self.words),
        }


def planner_of(
    spec: RunSpec,
    data: TrainingData,
    hardware: Hardware,
    *,
    available_bytes: float,
    num_tokens: int,
) -> Planner:
    """For a run whose data is prepared."""
    return Planner(spec, rows_of_data(data, spec), hardware, available_bytes, num_tokens)


def layout_of(plan: RunPlan, layout: Layout, spec: RunSpec) -> Layout:
    """The layout, with passes as large as the plan has them."""
    tokens, usual = plan.choice.pass_tokens, spec.training.micro_batch_size
    if isinstance(layout, Flat):
        is_usual = tokens == usual * spec.data.sequence_len
        return replace(layout, pass_tokens=None if is_usual else tokens)
    if isinstance(layout, Padded) and plan.expected is not None:
        num_rows = max(1, tokens // plan.longest_row)
        return replace(layout, max_rows=num_rows if num_rows < usual else None)
    return layout


def apply_plan(plan: RunPlan, model: LoadedModel) -> None:
    """Makes the model's layers run as the plan says."""
    choice = plan.choice
    if model.execution is not None:
        model.execution.set(
            recomputed_layers=range(choice.num_recomputed), kept_layers=range(choice.num_kept)
        )
    elif choice.num_recomputed:
        recompute_every_layer(model)


def stored_plan(stored: Any, planner: Planner) -> RunPlan | None:
    """The plan that a run began with, to go on with it.

    Args:
        stored: What run.json holds of it; None if nothing.
        planner: For this machine.

    Returns:
        None if the run began elsewhere or otherwise, by another version of ft or with other data,
        so that it has to be planned anew.
    """
    if not isinstance(stored, dict) or stored.get("made_for") != planner.made_for():
        return None
    if stored.get("longest_row") != planner.rows.longest:
        return None
    try:
        return _read_plan(stored, planner)
    except (KeyError, TypeError, ValueError):
        return None


def _read_plan(stored: dict[str, Any], planner: Planner) -> RunPlan:
    choice = Choice(*(int(stored[name]) for name in Choice.__dataclass_fields__))
    expected = None
    if stored.get("parts") is not None:
        parts = MemoryParts(**{name: float(value) for name, value in stored["parts"].items()})
        expected = Planned(choice, parts, stored["step_time_s"])
    return RunPlan(
        choice,
        planner.num_layers,
        planner.available_bytes,
        planner.rows.longest,
        stored["made_for"],
        bool(stored["has_several_passes"]),
        expected,
    )


def plan_of_run(claimed: ClaimedRun, planner: Planner) -> RunPlan:
    """The plan that the run began with, if it began here; else a new one."""
    run = claimed.directory
    goes_on = not claimed.overwrites and run.state == "unfinished"
    stored = run.read_run().get("plan") if goes_on else None
    if (known := stored_plan(stored, planner)) is not None:
        return known
    plan = planner.plan()
    if stored is None:
        return plan
    words = "the run began elsewhere, with other keys or another version of ft: planned anew"
    return replace(plan, words=(*plan.words, words))


def _rounded(parts: Mapping[str, float]) -> dict[str, int]:
    return {name: round(value) for name, value in parts.items()}


class Planner:
    """Makes a run's plan, and a tighter one when it turns out to be too large."""

    def __init__(
        self,
        spec: RunSpec,
        rows: Rows,
        hardware: Hardware,
        available_bytes: float,
        num_tokens: int | None = None,
    ) -> None:
        """Args: the run, its data, the device and what is free there, the vocabulary's size."""
        self.spec, self.rows, self.hardware = spec, rows, hardware
        self.available_bytes, self.num_tokens = available_bytes, num_tokens
        self.recompute = recompute_of(spec)
        self.obstacle = ""
        self.config = load_config(spec.model.model_copy(update={"reinit_weights": True}))
        self.num_layers: int = getattr(self.config.get_text_config(), "num_hidden_layers", 0)
        is_cuda = hardware.kind == "cuda"
        self.room_bytes = max(available_bytes - (0 if is_cuda else HOST_COPY_BYTES), 0)
        self.budget = Budget(self.room_bytes * (1 - MARGIN), card_of(hardware.name), is_cuda)

    @cached_property
    def need(self) -> RunNeed | None:
        """Counted on the model's modules; None if they can't be run without values."""
        if self.spec.data.is_classification:
            self.obstacle = "it tells labels"
            return None
        try:
            return need_of(self.spec, self.rows, self.hardware, num_tokens=self.num_tokens)
        except NOT_COUNTED as error:
            self.obstacle = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return None

    def plan(self) -> RunPlan:
        """The fastest that fits; not counted where memory is ample.

        Raises:
            MachineError: nothing comes near to fitting; with the cheapest change that does.
        """
        found = self._plain() if self._is_ample() else self.counted_plan()
        if found is None:
            smallest = self.smallest()
            raise self.does_not_fit(None if smallest is None else smallest.memory.total)
        return found

    def counted_plan(self) -> RunPlan | None:
        """The fastest that fits; None if nothing comes near to fitting."""
        if self.need is None:
            return self._unplanned()
        found = choose(self.need, self.budget, self.recompute)
        if found is not None:
            return self._as_plan(found.choice, found)
        smallest = planned(self.need, self.budget, least(self.need, self.recompute))
        if smallest.memory.total > self.room_bytes:
            return None
        words = "this is tight: less than the usual margin stays free"
        return self._as_plan(smallest.choice, smallest, words)

    def tighter(self, plan: RunPlan, measured_bytes: float | None) -> RunPlan | None:
        """The next one to try when a plan took more than there is; None if there is no smaller.

        Args:
            plan: The one that was tried.
            measured_bytes: What it took; None if memory ran out.
        """
        if self.need is None:
            return None
        expected = planned(self.need, self.budget, plan.choice).memory.total
        most = self.budget.memory_bytes
        most_of_it = _SMALLER * expected
        goal = min(most * expected / measured_bytes, expected) if measured_bytes else most_of_it
        found = choose(self.need, replace(self.budget, memory_bytes=goal), self.recompute)
        smallest = least(self.need, self.recompute)
        if found is None and plan.choice != smallest:
            found = planned(self.need, self.budget, smallest)
        if found is None or found.choice == plan.choice:
            return None
        took = "more memory than there is" if measured_bytes is None else "more than expected"
        words = f"the longest batch took {took}: planned anew"
        return self._as_plan(found.choice, found, words)

    def smallest(self) -> Planned | None:
        """The plan that takes least, whether or not it fits; None if it can't be counted."""
        if self.need is None:
            return None
        return planned(self.need, self.budget, least(self.need, self.recompute))

    def does_not_fit(self, least_bytes: float | None) -> MachineError:
        """What to say when nothing fits, with the cheapest change that would."""
        needed = "" if least_bytes is None else f" at least {memory_size(least_bytes)} of"
        what = f"the run needs{needed} memory; {memory_size(self.available_bytes)} are free"
        fix = cheapest_change(self.spec, self.rows, self.hardware, self.budget)
        return MachineError(Problem(f"out of memory: {what}", fix=fix))

    def ran_out(self, plan: RunPlan, error: Exception) -> MachineError:
        """What to say when memory ran out under a plan that was to hold.

        The change takes a tenth off what was expected of the plan; it is told without a size
        where the model can't be counted.
        """
        if self.need is None:
            return out_of_memory(self.spec, error)
        expected = planned(self.need, self.budget, plan.choice).memory.total
        goal = min(_SMALLER * expected, self.budget.memory_bytes)
        budget = replace(self.budget, memory_bytes=goal)
        fix = cheapest_change_of_running(self.spec, self.rows, self.hardware, budget)
        return out_of_memory(self.spec, error) if fix is None else ran_out(error, fix)

    # -- without counting -------------------------------------------------------------------------

    def _is_ample(self) -> bool:
        return _AMPLE * self._generous_bytes() < self.budget.memory_bytes

    def _generous_bytes(self) -> float:
        """More than any run of this size takes: fp32 throughout, the plain loss, nothing shared."""
        text = self.config.get_text_config()
        hidden = getattr(text, "hidden_size", 0)
        inner = getattr(text, "intermediate_size", None) or 4 * hidden
        experts = max(getattr(text, n, None) or 1 for n in ("num_experts", "num_local_experts"))
        vocabulary = max(getattr(text, "vocab_size", 0), self.num_tokens or 0)
        weights = self.num_layers * (4 * hidden**2 + 3 * hidden * inner * experts)
        weights += 2 * vocabulary * hidden
        tokens = self.spec.training.micro_batch_size * self.spec.data.sequence_len
        kept = 4 * tokens * self.num_layers * (24 * hidden + 8 * inner) + 20 * tokens * vocabulary
        return 20 * weights + kept

    def _plain(self) -> RunPlan:
        recomputed = self.num_layers if self.recompute == "always" else 0
        return self._as_plan(Choice(recomputed, self.num_layers, self._usual_tokens()))

    def _unplanned(self) -> RunPlan:
        recomputed = self.num_layers if self.spec.training.gradient_checkpointing else 0
        words = f"this model can't be counted beforehand ({self.obstacle}): memory is not planned"
        return self._as_plan(Choice(recomputed, 0, self._usual_tokens()), words=words)

    def _usual_tokens(self) -> int:
        return self.spec.training.micro_batch_size * self.spec.data.sequence_len

    def _step_tokens(self) -> int:
        return self.need.step_tokens if "need" in self.__dict__ and self.need else 0

    def _as_plan(self, choice: Choice, expected: Planned | None = None, words: str = "") -> RunPlan:
        return RunPlan(
            choice,
            self.num_layers,
            self.available_bytes,
            self.rows.longest,
            self.made_for(),
            self._step_tokens() > choice.pass_tokens,
            expected,
            (words,) if words else (),
        )

    def made_for(self) -> dict[str, Any]:
        """The device, and the keys that a plan depends on."""
        training = self.spec.training
        return {
            "hardware": self.hardware.name,
            "memory_bytes": self.hardware.memory_bytes,
            "gradient_checkpointing": self.recompute,
            "micro_batch_size": training.micro_batch_size,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "sequence_len": self.spec.data.sequence_len,
        }

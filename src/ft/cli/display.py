"""How a run looks in the terminal: a live line on a terminal, plain lines elsewhere.

Both are fed the same events that events.jsonl gets. A closed pipe silences the display; it never
stops a run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ft.cli.labels import example_lines, figures_in_words
from ft.cli.output import discard_output
from ft.cli.plan_text import words_of_plan
from ft.cli.visible import marks_for, one_line
from ft.cli.words import duration
from ft.runtime import process_rank
from ft.runtime.sizes import memory_size
from ft.train.space import in_bytes

Event = dict[str, Any]


def run_display() -> _Display:
    """The display that fits standard output; of several processes, one has it."""
    if process_rank():
        return _Display(Console(quiet=True))
    if sys.stdout.isatty():
        return _LiveDisplay(_PatientConsole(highlight=False))
    return _PlainDisplay(_PatientConsole(highlight=False, soft_wrap=True, no_color=True))


class _PatientConsole(Console):
    """Rich exits when its output is closed; a run must not."""

    def on_broken_pipe(self) -> None:
        """Goes on without an audience."""
        discard_output()


class _Display:
    """What both kinds have: sentences for the events."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        marks = marks_for(self.console.encoding)
        for line in _SENTENCES.get(event["event"], _nothing)(event):
            self.console.print(one_line(_nearby(line), marks), markup=False)


class _PlainDisplay(_Display):
    """One line an event; progress at most every ten seconds."""

    SECONDS_BETWEEN_PROGRESS = 10.0

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.last_progress = 0.0
        self.last_phase = ""

    def __call__(self, event: Event) -> None:
        if event["event"] == "progress":
            self._progress(event)
        elif event["event"] == "step":
            self.console.print(_step_line(event), markup=False)
        else:
            super().__call__(event)

    def _progress(self, event: Event) -> None:
        now = time.monotonic()
        is_new = event["phase"] != self.last_phase
        if is_new or now - self.last_progress >= self.SECONDS_BETWEEN_PROGRESS:
            self.last_progress, self.last_phase = now, event["phase"]
            self.console.print(_phase_line(event), markup=False)


class _LiveDisplay(_Display):
    """A bar for the phase under way or the steps, with what happened above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", justify="left", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("starting", total=None, figures="")

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        if event["event"] == "progress":
            self.progress.update(
                self.task,
                description=_nearby(event["phase"]),
                completed=event["done"],
                total=event["total"],
                figures="",
            )
        elif event["event"] == "step":
            self.progress.update(
                self.task,
                description="training",
                completed=event["step"],
                total=event["num_steps"],
                figures=_figures(event),
            )
        else:
            if event["event"] == "start":
                self.progress.reset(
                    self.task,
                    description="training",
                    completed=event["step"],
                    total=event["num_steps"],
                )
            super().__call__(event)


# -- sentences --------------------------------------------------------------------------------


def _nearby(text: str) -> str:
    """The text, with files below the working directory named from there."""
    here = os.getcwd()
    return text if here == os.sep else text.replace(here + os.sep, "")


def _nothing(event: Event) -> list[str]:
    return []


def _figures(event: Event) -> str:
    skipped = "  overflow, skipped" if event["was_skipped"] else ""
    return (
        f"loss {event['loss']:.4f}  lr {event['learning_rate']:.2e}  "
        f"{event['tokens_per_s']:,.0f} tok/s  {memory_size(event['peak_memory_bytes'])}{skipped}"
    )


def _step_line(event: Event) -> str:
    left_s = (event["num_steps"] - event["step"]) * event["step_time_s"]
    return f"step {event['step']}/{event['num_steps']}  {_figures(event)}  {duration(left_s)} left"


def _phase_line(event: Event) -> str:
    phase, total = _nearby(event["phase"]), event["total"]
    return f"{phase} {event['done']:,}/{total:,}" if total else f"{phase} ..."


def _model(event: Event) -> list[str]:
    share = 100 * event["num_trainable"] / event["num_parameters"]
    return [
        f"model: {event['base_model']}, {event['num_parameters']:,} parameters, "
        f"{event['num_trainable']:,} trained ({share:.2f} %)",
        f"on: {event['hardware']}, {event['precision']}",
        f"attention: {event['attention']} ({event['attention_reason']})",
        *[f"note: {note}" for note in event["notes"]],
    ]


def _start(event: Event) -> list[str]:
    resumed = f", {event['step']} of them done" if event["step"] else ""
    optimizer, in_use = event["optimizer"], event["optimizer_in_use"]
    name = optimizer if in_use == optimizer else f"{optimizer} (as {in_use}: its state is small)"
    rate = f"{name}, {event['lr_scheduler']} from {event['learning_rate']:g}"
    if event["steps_per_epoch"] is None:
        return [
            f"training: a stream, {event['num_steps']:,} steps of {event['rows_per_step']} rows"
            f"{resumed}, read in windows of {event['window_size']:,} records, {rate}"
        ]
    epochs = event["num_steps"] / event["steps_per_epoch"]
    packing = event.get("packing")
    rows_per_step = f"{event['rows_per_step']}{' packs' if packing else ''}"
    return [
        *([_packing_line(packing)] if packing else []),
        f"training: {event['num_train_records']:,} records, {event['num_steps']:,} steps of "
        f"{rows_per_step} ({epochs:.2f} epochs{resumed}), {rate}",
    ]


def _packing_line(packing: dict[str, Any]) -> str:
    return (
        f"packing: {packing['num_records']:,} records in {packing['num_packs']:,} packs of "
        f"{packing['capacity']:,}, {100 * packing['efficiency']:.1f} % full"
    )


def _evaluation(event: Event) -> list[str]:
    return [
        f"step {event['step']}: held-out loss {event['eval_loss']:.4f}{figures_in_words(event)} "
        f"({event['num_records']} records, {event['eval_time_s']:.1f} s)"
    ]


def _space(event: Event) -> list[str]:
    if not event["is_tight"]:
        return []
    needed, free, one = (
        in_bytes(event[key]) for key in ("needed_bytes", "free_bytes", "checkpoint_bytes")
    )
    return [
        f"note: the disk may get full: the run will write {needed}, {free} are free; a checkpoint "
        f"takes {one}, and save_total_limit says how many are kept"
    ]


_SENTENCES: dict[str, Callable[[Event], list[str]]] = {
    "data": lambda event: list(event.get("summary", [])),
    "stream": lambda event: list(event["summary"]),
    "model": _model,
    "space": _space,
    "plan": words_of_plan,
    "start": _start,
    "evaluation": _evaluation,
    "examples": lambda event: list(example_lines(event, sys.stdout.encoding)),
    "checkpoint": lambda e: [f"step {e['step']}: checkpoint saved ({e['save_time_s']:.1f} s)"],
    "resumed": lambda e: [f"going on from {e['checkpoint']}"],
    "broken_checkpoint": lambda e: [f"checkpoint {e['path']} is not used: {e['why']}"],
    "stopped_early": lambda e: [f"no gain any more: stopping; the best was step {e['best_step']}"],
    "best": lambda e: [f"using the weights of step {e['step']} (loss {e['eval_loss']:.4f})"],
    "tracker": lambda e: [e["text"]],
    "line": lambda e: [e["text"]],
}

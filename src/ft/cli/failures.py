"""Failures as a user sees them, and the exit code that each leaves by."""

from __future__ import annotations

import signal
import sys
import traceback

from rich.console import Console
from rich.text import Text

from ft.cli.visible import marks_for, one_line
from ft.runtime import FtError, MachineError, Problem
from ft.runtime.durable import is_disk_full
from ft.runtime.interrupts import interrupting_signal


def report_failure(error: BaseException, *, shows_traceback: bool) -> int:
    """Prints what went wrong to standard error.

    Returns:
        The exit code: an FtError's own, 3 for a full disk, 130 for Ctrl-C, 143 for SIGTERM, 1 for a
        fault of ours.
    """
    if shows_traceback:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        was_asked_to = interrupting_signal() == signal.SIGTERM
        _print([Problem("stopped by SIGTERM" if was_asked_to else "interrupted")])
        return 128 + (signal.SIGTERM if was_asked_to else signal.SIGINT)
    known = error if isinstance(error, FtError) else _as_known(error)
    if known is not None:
        _print(known.problems)
        return known.exit_code
    if not shows_traceback:
        traceback.print_exception(error)
    _print(
        [Problem("this is a fault of ft, not of your input", fix="please report the lines above")]
    )
    return 1


def _as_known(error: BaseException) -> FtError | None:
    """A full disk, however a library words it."""
    if is_disk_full(error):
        where = str(getattr(error, "filename", None) or "")
        return MachineError(Problem("no space left on the disk", where, fix="free some"))
    return None


def _print(problems: list[Problem] | tuple[Problem, ...]) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    marks = marks_for(sys.stderr.encoding)
    for problem in problems:
        # Names and records in a message are strangers' text: nothing of them may steer a terminal.
        lines = [one_line(line, marks) for line in problem.render().split("\n")]
        style = "bold red" if sys.stderr.isatty() else ""
        console.print(Text(lines[0], style=style))
        for line in lines[1:]:
            console.print(Text(line))

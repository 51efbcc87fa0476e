"""Standard output, which may go away: `ft train ... | head -1` must not stop a run."""

from __future__ import annotations

import os
import sys

from ft.cli.visible import harmless, marks_for
from ft.runtime import process_rank


def say(text: str, end: str = "\n") -> None:
    """A text to standard output, from one process; nobody there is no reason to stop.

    On a terminal nothing in it can steer the terminal: names, records and answers are strangers'
    text. A file or a pipe gets it as it is.
    """
    if process_rank():
        return
    if sys.stdout.isatty():
        text = harmless(text, marks_for(sys.stdout.encoding))
    write_as_it_is(text + end)


def write_as_it_is(text: str) -> None:
    """What is made for the terminal already: colors and all."""
    if process_rank():
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:  # closed, or a file on a disk that is full
        discard_output()


def discard_output() -> None:
    """Sends whatever is still written to standard output nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

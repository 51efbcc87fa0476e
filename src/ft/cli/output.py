"""Standard output, which may go away: `ft train ... | head -1` must not stop a run."""

from __future__ import annotations

import os
import sys

from ft.runtime import process_rank


def say(text: str, end: str = "\n") -> None:
    """One line to standard output, from one process; nobody there is no reason to stop."""
    if process_rank():
        return
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except OSError:  # closed, or a file on a disk that is full
        discard_output()


def discard_output() -> None:
    """Sends whatever is still written to standard output nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

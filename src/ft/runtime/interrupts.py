"""A signal that ends a command by an exception: whatever a library makes of that, it is not lost.

Python runs a signal's handler between any two lines. In an import a library in C may turn the
exception into an ImportError of its own, and a ``__del__`` prints and drops it (the regex package
has one that runs hundreds of times as transformers is imported). So it is noted that the signal
came, and what a ``__del__`` has dropped is raised once more a moment later.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_MOMENT_S = 0.01
_came: list[int] = []


class Interrupt(KeyboardInterrupt):
    """``except Exception`` lets it through.

    Of its own class, since Python notes a plain KeyboardInterrupt that passes through the ``exec``
    of a text (as dataclasses and named tuples have one), and kills itself by SIGINT at its end,
    whatever the exit code was to be.
    """


def raise_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """A signal handler: raises Interrupt, and notes the signal."""
    _came.append(number)
    raise Interrupt


def interrupting_signal() -> int | None:
    """The first signal that ``raise_interrupt`` has heard; None if there was none."""
    return _came[0] if _came else None


def forget_interrupts() -> None:
    """What came before counts no longer, and is not raised again."""
    _came.clear()
    leave_dropped()


def leave_dropped() -> None:
    """What was dropped is not raised again: whoever calls this asks ``interrupting_signal``."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def raise_what_is_dropped() -> None:
    """From now on an interrupt that a ``__del__`` or a callback drops is raised again.

    For a process that is ours alone: it takes ``sys.unraisablehook`` and SIGALRM, which counts as
    no signal of the user's.
    """
    sys.unraisablehook = _look_at_dropped
    signal.signal(signal.SIGALRM, _raise_again)


def _look_at_dropped(dropped: UnraisableHookArgs) -> None:
    if _came and issubclass(dropped.exc_type, Interrupt):
        with suppress(Interrupt):  # a second one
            signal.setitimer(signal.ITIMER_REAL, _MOMENT_S)
    else:
        sys.__unraisablehook__(dropped)


def _raise_again(number: int, frame: FrameType | None) -> None:
    if _came:
        raise Interrupt

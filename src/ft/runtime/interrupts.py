"""A signal that ends a command by an exception: whatever a library makes of that, it is not lost.

Python runs a signal's handler between any two lines. In an import a library may turn the exception
into one of its own or go on after anything, and a ``__del__`` prints and drops it (the regex
package has one that runs hundreds of times as transformers is imported). So it is noted that the
signal came; and once the exception is gone while the command goes on, it is raised anew.
"""

from __future__ import annotations

import signal
import sys
import weakref
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_MOMENT_S = 0.25
"""Time for whoever ends the command to say that it does."""


class Interrupt(KeyboardInterrupt):
    """``except Exception`` lets it through.

    Of its own class, since Python notes a plain KeyboardInterrupt that passes through the ``exec``
    of a text (as dataclasses and named tuples have one), and kills itself by SIGINT at its end,
    whatever the exit code was to be.
    """


class _State:
    """Of this process, as handlers of signals are."""

    came: int | None = None
    can_raise_again = False
    raises_again = False
    latest: weakref.ref[Interrupt] | None = None


def raise_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """A signal handler: raises Interrupt, and notes the signal."""
    if _State.came is None:
        _State.came = number
    _State.raises_again = _State.can_raise_again
    _raise()


def interrupting_signal() -> int | None:
    """The first signal that ``raise_interrupt`` has heard; None if there was none."""
    return _State.came


def forget_interrupts() -> None:
    """What came before counts no longer, and is not raised again."""
    leave_dropped()
    _State.came = None


def leave_dropped() -> None:
    """What was dropped is not raised again: whoever calls this asks ``interrupting_signal``."""
    _State.raises_again = False
    signal.setitimer(signal.ITIMER_REAL, 0)


def raise_what_is_dropped() -> None:
    """From now on an interrupt that something drops is raised again.

    For a process that is ours alone: it takes ``sys.unraisablehook`` and SIGALRM, which counts as
    no signal of the user's.
    """
    sys.unraisablehook = _look_at_dropped
    signal.signal(signal.SIGALRM, _raise_again)
    _State.can_raise_again = True


def _raise() -> NoReturn:
    interrupt = Interrupt()
    _State.latest = weakref.ref(interrupt, _when_gone)
    try:
        raise interrupt
    finally:
        del interrupt  # its traceback holds this frame, which would hold it


def _when_gone(reference: weakref.ref[Interrupt]) -> None:
    """Nobody holds the exception any longer: it was dropped, or the command has ended."""
    if _State.raises_again:
        with suppress(Interrupt):  # of another signal
            signal.setitimer(signal.ITIMER_REAL, _MOMENT_S)


def _raise_again(number: int, frame: FrameType | None) -> None:
    if _State.raises_again:
        _raise()


def _look_at_dropped(dropped: UnraisableHookArgs) -> None:
    if not issubclass(dropped.exc_type, Interrupt):
        sys.__unraisablehook__(dropped)

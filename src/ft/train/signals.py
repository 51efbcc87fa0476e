"""Leaving when asked to: SIGINT, SIGTERM, and the end of the time that a run was given.

Before the loop and after it a signal ends the program where it stands, in order and with a word.
In the loop the first one asks to stop after the step and its checkpoint; the second one kills.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ft.runtime import Interrupted, Problem
from ft.runtime.interrupts import (
    forget_interrupts,
    interrupting_signal,
    leave_dropped,
    raise_interrupt,
)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], None]


@contextmanager
def leaving_on_signals() -> Iterator[None]:
    """While entered, SIGINT and SIGTERM end the block where it stands: locks, files are left well.

    Whatever a library makes of the interruption on its way, it is one again at the block's end.

    Raises:
        Interrupted: a signal came.
    """
    forget_interrupts()
    try:
        with _handling_signals(raise_interrupt):
            yield
    except BaseException as error:
        number = interrupting_signal()
        if number is None or isinstance(error, Interrupted):
            raise
        raise _outside_of_steps(number) from error
    finally:
        forget_interrupts()


def _outside_of_steps(number: int) -> Interrupted:
    return Interrupted(
        number,
        Problem(
            f"stopped by {signal.Signals(number).name} outside of the training steps",
            fix="the same command begins, or goes on from the newest checkpoint",
        ),
    )


class StopRequest:
    """While entered, remembers the first signal instead of dying of it.

    A run whose time is over is asked to stop as if by SIGTERM.
    """

    def __init__(self, deadline_s: float | None = None) -> None:
        """Args: when to stop, on the clock of ``time.monotonic``; None for never."""
        self._deadline_s = deadline_s
        self._signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over."""
        with _handling_signals(self._remember):
            leave_dropped()
            self._signal_number = interrupting_signal()  # a library had dropped it
            yield

    @property
    def signal_number(self) -> int | None:
        """What asks to stop, None as long as nothing does."""
        if self._signal_number is None and self.is_out_of_time:
            return int(signal.SIGTERM)
        return self._signal_number

    @property
    def is_out_of_time(self) -> bool:
        """Whether the run has had its time."""
        return self._deadline_s is not None and time.monotonic() >= self._deadline_s

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal_number = number


@contextmanager
def _handling_signals(handler: _Handler) -> Iterator[None]:
    """Where Python allows it, the main thread; the former handlers are back at the block's end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        with _ending_at_the_second():
            yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


@contextmanager
def _ending_at_the_second() -> Iterator[None]:
    """While entered, a second signal ends the process at once.

    Python runs a handler between two lines of Python, and one pass of a large model is one line. So
    a thread counts: the interpreter writes each signal into a socket the moment it comes.
    """
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    former = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_count, args=[receiving], daemon=True, name="signals")
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        sending.close()
        thread.join()
        receiving.close()


def _count(receiving: socket.socket) -> None:
    num_signals = 0
    while byte := receiving.recv(1):  # empty once the other end is closed
        num_signals += byte[0] in _SIGNALS
        if num_signals == 2:
            os._exit(128 + byte[0])

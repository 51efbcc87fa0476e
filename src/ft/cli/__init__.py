"""The command line: one short function a command; nothing heavy is imported before it is needed."""

import atexit
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code (see ft.runtime.errors)."""
    from ft.cli.app import main as run_command

    run_command(arguments)


def program() -> NoReturn:
    """``ft`` as a process of its own: a signal ends it by 130 or 143, whenever it comes.

    A command is left by an exception, so that half-written folders go. Once a
    command is over its exit code is what it came to, and a signal only brings the end forward.
    """
    atexit.register(_end)  # the first one registered is the last one called
    for number in _SIGNALS:
        signal.signal(number, _leave)
    try:
        _run_and_settle()
    except KeyboardInterrupt:  # between two of the lines that handle it
        _leave(signal.SIGINT, None)


def _run_and_settle() -> NoReturn:
    import ft.cli.app  # noqa: F401 - the slow part; an interrupt may get lost in an import
    from ft.runtime import interrupts

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        if os.getpid() != _MAIN_PROCESS:  # one that the command forked, and ends by SIGTERM
            os._exit(128 + number)
        interrupts.raise_interrupt(number, frame)

    interrupts.raise_what_is_dropped()
    for number in _SIGNALS:
        signal.signal(number, interrupt)
    try:
        main()
    except SystemExit as end:
        _settle(end.code if isinstance(end.code, int) else 0)
        interrupts.forget_interrupts()
        raise


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Ends a process that has nothing to put in order yet."""
    if os.getpid() == _MAIN_PROCESS:  # those that it forked inherit the handler, not the word
        word = b"interrupted\n" if number == signal.SIGINT else b"stopped by SIGTERM\n"
        with suppress(OSError):
            os.write(2, word)
    os._exit(128 + number)


class _State:
    exit_code: int | None = None
    """What the command came to, once it is over."""


def _settle(code: int) -> None:
    _State.exit_code = code
    _flush()
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(code))


def _end() -> None:
    """Ends the process without taking the interpreter down.

    That takes seconds once torch is loaded, and a thread that a library has left running may abort
    the process meanwhile. By now threads to be waited for have ended, libraries have cleaned up.
    """
    if os.getpid() == _MAIN_PROCESS and _State.exit_code is not None:
        _flush()
        os._exit(_State.exit_code)


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # nobody reads them any longer; closed
            stream.flush()


_MAIN_PROCESS = os.getpid()

__all__ = ["main", "program"]

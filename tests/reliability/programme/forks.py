"""`ft` as a process of its own that is there at once: forked from one that has the libraries loaded.

A real process: it has its own id, dies of a real SIGKILL, and shares nothing with its siblings but
memory that neither changes. It is spared the six seconds that loading the libraries takes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[3]
_CONTEXT = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
"""bitsandbytes opens a card as it is loaded, and an open card does not survive a fork."""


_started: list[Fork] = []


class Fork:
    """A process that runs one function, its output in files."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, output: Path) -> None:
        """Starts it; what it prints goes to ``output``."""
        _prepare_server()
        self.output = output
        self._process = _CONTEXT.Process(target=_call, args=(output, function, arguments))
        self._process.start()
        _started.append(self)

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it, or None while it is alive."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, if it is alive."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended in between
                os.kill(self.pid, number)

    def wait(self, timeout_s: float = 300) -> int:
        """Its exit code; one that takes longer is killed, and that is a failure."""
        self._process.join(timeout_s)
        code = self.poll()
        if code is None:
            self.send_signal(signal.SIGKILL)
            raise AssertionError(f"still there after {timeout_s} s: {self.said()}")
        return code

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        """Until the condition holds or the process has ended."""
        until = time.monotonic() + timeout_s
        while not condition() and self.poll() is None:
            assert time.monotonic() < until, f"it never came to that: {self.said()}"
            time.sleep(0.005)

    def said(self) -> str:
        """What it has printed; nothing if it was killed before it could."""
        with suppress(FileNotFoundError):
            return self.output.read_text(errors="replace")
        return ""


def end_all() -> None:
    """Kills whatever was started here and is still alive."""
    for process in _started:
        process.send_signal(signal.SIGKILL)
    _started.clear()


def fork_ft(*arguments: Any, output: Path) -> Fork:
    """`ft ARGUMENTS`."""
    return Fork(_ft, *map(str, arguments), output=output)


def _ft(*arguments: str) -> None:
    from ft.cli import main

    main(list(arguments))


def _call(output: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """In the process, which is there once its output is."""
    import programme.preloaded  # noqa: F401 - the server of forks has it at hand

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    function(*arguments)


def _prepare_server() -> None:
    """The server is started with the first fork, in the environment of that moment."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(map(str, _PATHS)))
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload(["programme.preloaded"])


_PATHS = [ROOT / "src", ROOT / "tests", ROOT / "tests/reliability"]

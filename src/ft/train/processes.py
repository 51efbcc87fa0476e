"""`ft train --processes N`: one command that starts N processes and sees that none is left behind.

Each is an `ft train` of its own, told its rank in the variables that torchrun uses, so accelerate
finds them. What torchrun does not do is done here: a process that is stopped counts as lost, the
others end within seconds and not after the half minute that it allows them, the message names the
process, and of N error messages the one that matters is shown.

When a process fails, the others hang in an exchange that will never end; they are killed, which
costs nothing since a checkpoint is whole or not there. If this process dies, they notice: each
holds the reading end of a pipe whose writing end is here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO

LIFELINE = "FT_LIFELINE"
"""Names the variable that holds the pipe's number in a started process."""
_POLL_S = 0.05
_STOPPED_FOR_S = 10.0
"""A process stopped for longer is lost; shorter, somebody may have pressed Ctrl-Z."""
_OWN_WORDS_S = 1.0
"""Time for the others to end by themselves, with a better reason perhaps."""
_AFTER_SIGNAL_S = 15.0
_OWN_CODES = (2, 3, 4)
"""Exit codes that come with an explanation, see ft.runtime.errors."""


@dataclass
class _Process:
    rank: int
    popen: subprocess.Popen[bytes]
    errors: IO[bytes]
    status: int | None = None
    """Exit code, or minus the signal that killed it."""
    stopped_since: float | None = None

    def look(self, now: float) -> None:
        """Takes note of what the kernel says happened to it."""
        if self.status is not None:
            return
        pid, status = os.waitpid(self.popen.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
        if not pid:
            return
        if os.WIFSTOPPED(status):
            self.stopped_since = now
        elif os.WIFCONTINUED(status):
            self.stopped_since = None
        else:
            self.status = self.popen.returncode = os.waitstatus_to_exitcode(status)

    def is_lost(self, now: float) -> bool:
        """Whether it will take part no more, though it has not ended."""
        since = self.stopped_since
        return self.status is None and since is not None and now - since > _STOPPED_FOR_S

    def kill(self) -> None:
        """Ends it, whatever it is doing, and waits until it is gone."""
        if self.status is None:
            os.kill(self.popen.pid, signal.SIGKILL)
            os.waitpid(self.popen.pid, 0)
            self.status = self.popen.returncode = -signal.SIGKILL

    def words(self) -> str:
        """What it wrote to standard error."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")


@dataclass(frozen=True)
class Failure:
    """How a run of several processes failed."""

    exit_code: int
    rank: int
    what: str
    """"was killed by SIGKILL"; empty if the process has said itself what happened."""
    words: str
    """What the process wrote to standard error."""


def run_processes(arguments: Sequence[str], num_processes: int) -> Failure | None:
    """Runs ``ft ARGUMENTS`` so many times as one training; None if all of them end well.

    Signals are handed on: the first one asks to save and leave, the second one kills.
    """
    group = _Group(arguments, num_processes)
    previous = {n: signal.signal(n, group.on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return group.watch()
    finally:
        group.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Group:
    """The processes of one run."""

    def __init__(self, arguments: Sequence[str], num_processes: int) -> None:
        self.signaled_at: float | None = None
        lifeline, self._held = os.pipe()
        environment = _environment(num_processes) | {LIFELINE: str(lifeline)}
        self.processes: list[_Process] = []
        for rank in range(num_processes):
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the group
            popen = subprocess.Popen(
                [sys.executable, "-m", "ft", *arguments],
                env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=None if rank == 0 else errors,
                stderr=errors,
                pass_fds=[lifeline],
                start_new_session=True,  # Ctrl-C comes here alone, and is handed on once
            )
            self.processes.append(_Process(rank, popen, errors))
        os.close(lifeline)

    def watch(self) -> Failure | None:
        """Until all have ended, or one has failed."""
        while True:
            self._look()
            failed = [p for p in self.processes if p.status]
            lost = [p for p in self.processes if p.is_lost(time.monotonic())]
            if failed or lost:
                return self._end(failed[0] if failed else lost[0])
            if all(process.status == 0 for process in self.processes):
                sys.stderr.write(self.processes[0].words())
                return None
            if self._has_waited_enough():
                return self._end(next(p for p in self.processes if p.status is None))
            time.sleep(_POLL_S)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Hands the first signal on; at the second one everything ends."""
        if self.signaled_at is not None:
            self.close()
            os._exit(128 + number)
        self.signaled_at = time.monotonic()
        for process in self.processes:
            if process.status is None:
                os.kill(process.popen.pid, number)

    def close(self) -> None:
        """Leaves no process behind."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.errors.close()
        with contextlib.suppress(OSError):
            os.close(self._held)

    def _look(self) -> None:
        now = time.monotonic()
        for process in self.processes:
            process.look(now)

    def _has_waited_enough(self) -> bool:
        """Whether some have left after a signal, and the others don't."""
        if self.signaled_at is None or all(p.status is None for p in self.processes):
            return False
        return time.monotonic() - self.signaled_at > _AFTER_SIGNAL_S

    def _end(self, first: _Process) -> Failure:
        """Ends the others; of several that failed, one is the reason."""
        patience_s = _AFTER_SIGNAL_S if self.signaled_at is not None else _OWN_WORDS_S
        until = time.monotonic() + patience_s
        while first.rank and time.monotonic() < until and self._is_anyone_left(first):
            self._look()
            time.sleep(_POLL_S)
        reason = self._reason(first)
        words = reason.words() if reason.status is not None and reason.status > 0 else ""
        failure = Failure(_exit_code(reason.status), reason.rank, _what(reason), words)
        for process in self.processes:
            process.kill()
        return failure

    def _is_anyone_left(self, first: _Process) -> bool:
        return any(p.status is None for p in self.processes if p is not first)

    def _reason(self, first: _Process) -> _Process:
        """One that was killed or stopped; else one with an explanation; else the first to fail."""
        if first.status is None or first.status < 0:
            return first
        explained = [p for p in self.processes if p.status in _OWN_CODES or (p.status or 0) > 128]
        return explained[0] if explained else first


def _what(process: _Process) -> str:
    if process.status is None:
        return "is stopped" if process.stopped_since is not None else "does not leave"
    if process.status < 0:
        return f"was killed by {signal.Signals(-process.status).name}"
    return "" if process.status in _OWN_CODES or process.status > 128 else "failed"


def _exit_code(status: int | None) -> int:
    """A process's own code; 3, the machine's fault, if it was taken away."""
    return status if status is not None and status > 0 else 3


def _environment(num_processes: int) -> dict[str, str]:
    """What each process is told, as torchrun tells it; its rank is still missing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max((os.cpu_count() or 1) // num_processes, 1)
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def follow_lifeline() -> None:
    """In a started process: ends it when the one that started it is gone."""
    descriptor = os.environ.get(LIFELINE)
    if descriptor is None:
        return

    def wait() -> None:
        os.read(int(descriptor), 1)  # nobody writes; it returns when the other end is closed
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="lifeline").start()

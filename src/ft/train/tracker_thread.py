"""A tracker in a thread of its own, so that nothing it does can stop or delay a run.

What is logged waits in a queue. A tracker that raises, or that does not come back from a call for
too long, is switched off: what is queued is thrown away, and its thread, if it hangs, is left
behind (a daemon: the process ends without it).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

_LONGEST_QUEUE = 10_000
"""Calls that may wait; a tracker so far behind counts as hanging."""
_LOOK_S = 0.05


class Tracker(Protocol):
    """What accelerate's trackers have in common."""

    def store_init_configuration(self, values: dict[str, Any]) -> Any:
        """Takes what the run was asked to do."""

    def log(self, values: dict[str, Any], step: int | None = None) -> Any:
        """Takes metrics of a step."""

    def finish(self) -> Any:
        """Writes what is left."""


class TrackerThread:
    """One tracker, never waited for until the run ends."""

    def __init__(self, name: str, begin: Callable[[], Tracker], *, patience_s: float) -> None:
        """Begins in the background.

        Args:
            name: Of the tracker.
            begin: Makes the tracker and connects it.
            patience_s: A call that takes longer hangs.
        """
        self.name = name
        self._begin = begin
        self._patience_s = patience_s
        self._values: queue.Queue[tuple[dict[str, Any], int] | None] = queue.Queue(_LONGEST_QUEUE)
        self._busy_since: float | None = time.monotonic()
        self._error: str | None = None
        self._is_done = threading.Event()
        self._is_told = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Queues metrics of a step; never waits."""
        if self._is_told or self._error is not None:
            return
        try:
            self._values.put_nowait((dict(values), step))
        except queue.Full:
            self._error = f"it is {_LONGEST_QUEUE:,} steps behind"

    def trouble(self) -> str | None:
        """Why it is switched off, told once; None while all is well."""
        if self._is_told:
            return None
        since = self._busy_since
        if self._error is None and since is not None:
            waited_s = time.monotonic() - since
            if waited_s > self._patience_s:
                self._error = f"it has not answered for {waited_s:.0f} s"
        self._is_told = self._error is not None
        return self._error

    def close(self) -> str | None:
        """Waits until everything is logged, or for as long as it has patience; gives `trouble`."""
        if self._is_told:
            return None
        try:
            self._values.put_nowait(None)
        except queue.Full:
            self._error = f"it is {_LONGEST_QUEUE:,} steps behind"
        until = time.monotonic() + 2 * self._patience_s
        while not self._is_done.wait(_LOOK_S):
            if trouble := self.trouble():
                return trouble
            if time.monotonic() > until:
                self._error = "it did not come to an end"
        return self.trouble()

    def _work(self) -> None:
        try:
            tracker = self._begin()
            self._busy_since = None
            while self._error is None and (item := self._values.get()) is not None:
                self._busy_since = time.monotonic()
                tracker.log(*item)
                self._busy_since = None
            self._busy_since = time.monotonic()
            tracker.finish()
            self._busy_since = None
        except BaseException as error:  # noqa: BLE001 - whatever a tracker raises, the run goes on
            self._error = self._error or describe(error)
        finally:
            self._is_done.set()


def describe(error: BaseException) -> str:
    """An error as a short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__

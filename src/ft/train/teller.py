"""Who tells of a run: to the terminal at once, to its events.jsonl, and to trackers if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft.runtime import EventLog, OnEvent
from ft.spec import RunSpec
from ft.train.trackers import RunTrackers


class Teller:
    """Shows events as they come, and keeps them in events.jsonl from the moment the run begins.

    What goes wrong before that (data, model) leaves no trace in the directory.
    """

    def __init__(self, show: OnEvent) -> None:
        self._audience = show
        self.log: EventLog | None = None
        self._trackers: RunTrackers | None = None
        self._early: list[dict[str, Any]] = []

    def show(self, event: dict[str, Any]) -> None:
        """An event that is kept already, or need not be."""
        self._audience(event)
        if self._trackers is not None:
            self._trackers.hear(event)

    def track(self, spec: RunSpec, folder: Path) -> None:
        """From now on the trackers that the spec asks for hear everything, too.

        Args:
            spec: The run's.
            folder: Where trackers may keep files.
        """
        self._trackers = RunTrackers(spec, folder, lambda text: self.tell("tracker", text=text))

    def tell(self, event: str, **values: Any) -> None:
        """Something happened; it is kept."""
        if self.log is not None:
            self.show(self.log.append(event, **values))
        else:
            self._early.append({"event": event, **values})
            self.show(self._early[-1])

    def progress(self, phase: str, done: int, total: int | None) -> None:
        """So much of a phase is done; it is only shown."""
        self.show({"event": "progress", "phase": phase, "done": done, "total": total})

    def begin(self, path: Path) -> EventLog:
        """Opens the log and writes what was told before."""
        self.log = EventLog(path)
        for event in self._early:
            self.log.append(**event)
        return self.log

    def close(self) -> None:
        """Waits for the trackers, within their patience, and closes the log if there is one."""
        if self._trackers is not None:
            self._trackers.close()
        if self.log is not None:
            self.log.close()

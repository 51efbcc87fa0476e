"""Who tells of a run: to the terminal at once, and to its events.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft.runtime import EventLog
from ft.train.loop import OnEvent


class Teller:
    """Shows events as they come, and keeps them in events.jsonl from the moment the run begins.

    What goes wrong before that (data, model) leaves no trace in the directory.
    """

    def __init__(self, show: OnEvent) -> None:
        self.show = show
        self.log: EventLog | None = None
        self._early: list[dict[str, Any]] = []

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
        """Closes the log, if there is one."""
        if self.log is not None:
            self.log.close()

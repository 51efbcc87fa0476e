"""events.jsonl: every metric of a run, one JSON object a line, append-only.

    {"event": "step", "time": 1767222000.1, "step": 12, "loss": 1.234, ...}

A run that was killed has lines for steps after its last checkpoint, or before its first one; the
next run trains these steps again. ``read_events`` leaves the first telling out, so that a reader
sees each step once.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OnEvent = Callable[[dict[str, Any]], None]
"""Who is told of events as they come: what events.jsonl gets, and progress between."""


class EventLog:
    """Appends events to a file; each line is flushed as it is written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() and not _ends_with_newline(path):
            self._file.write("\n")  # a kill cut the last line short; keep it from spoiling ours

    def append(self, event: str, **values: Any) -> dict[str, Any]:
        """Writes one event and returns it as written."""
        record = {"event": event, "time": round(time.time(), 3), **_finite(values)}
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        return record

    def sync(self) -> None:
        """Flushes the file to the disk: a checkpoint must not outlive the lines before it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run, each step told once; a line cut short by a kill is left out."""
    if not path.exists():
        return []
    events: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(event, dict):
            continue
        if event.get("event") in ("resumed", "start"):
            events = _not_told_again(events, event.get("step", 0))
        events.append(event)
    return events


def _not_told_again(events: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    """What stays true of a run that goes on after the step; 0 is before its first evaluation."""
    if step:
        return [event for event in events if event.get("step", 0) <= step]
    return [event for event in events if "step" not in event or event.get("event") == "start"]


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: they are written as text, never as a number."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"

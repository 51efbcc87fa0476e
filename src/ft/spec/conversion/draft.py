"""A conversion while it is made: what was carried over, what changed on the way, what was lost.

A tool's file is a table `their key -> To(our key) or No(why)`, applied by `Draft.apply`; what takes
more than one key is done by the tool's own functions, which take their keys first (`Draft.take`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ft.spec.conversion.writer import Setting
from ft.spec.dialect import is_off
from ft.spec.key_table import Key, key_table
from ft.spec.nearest import nearest
from ft.spec.secrets import hide

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Note:
    """One key of theirs that did not come over as it was."""

    key: str
    value: str
    """As they wrote it, shortened; empty where their file does not hold the key."""
    why: str
    """What it means now, or why it was left out and what to do instead."""


@dataclass(frozen=True)
class To:
    """Their key has one of ours."""

    ours: str
    value: Callable[[Any], Any] = lambda value: value
    """Their value -> ours; None where it is our default. Raises ValueError with the reason where
    there is nothing of the kind."""
    changed: str = ""
    """What is different here, in a sentence."""


@dataclass(frozen=True)
class No:
    """Their key has none of ours."""

    why: str
    unless: tuple[Any, ...] = ()
    """Values that ask for nothing, besides false, 0, "none" and the like."""


Row = To | No


class Draft:
    """Our keys as they come together, and what has to be said about theirs."""

    def __init__(self, theirs: Mapping[str, Any], tool: str) -> None:
        self.tool = tool
        self.theirs = {key: value for key, value in theirs.items() if value is not None}
        self.ours: dict[str, Setting] = {}
        self.carried: dict[str, str] = {}
        """Their key -> ours."""
        self.changed: list[Note] = []
        self.lost: list[Note] = []
        self._taken: set[str] = set()

    # -- their side ---------------------------------------------------------------------------

    def take(self, key: str, default: Any = None) -> Any:
        """Their value, which the table then leaves alone."""
        self._taken.add(key)
        return self.theirs.get(key, default)

    def peek(self, key: str, default: Any = None) -> Any:
        """Their value, which is still to be dealt with."""
        return self.theirs.get(key, default)

    def apply(self, table: Mapping[str, Row], defaults: Mapping[str, Any]) -> None:
        """Carries over every key that was not taken, and the defaults of theirs that are not ours.

        Args:
            table: Their key -> what becomes of it.
            defaults: Their key -> the value that it has where it is not given.
        """
        for key, value in self.theirs.items():
            if key not in self._taken:
                self._apply_row(key, value, table)
        for key, value in defaults.items():
            row = table[key]
            if key in self._taken or key in self.theirs or not isinstance(row, To):
                continue
            converted = row.value(value)
            if converted is not None and row.ours not in self.ours:
                self.set_default(row.ours, converted)

    def _apply_row(self, key: str, value: Any, table: Mapping[str, Row]) -> None:
        row = table.get(key)
        if row is None:
            guess = nearest(key, table)
            self.lose(key, value, f"unknown to {self.tool}" + (f": {guess}?" if guess else ""))
        elif isinstance(row, No):
            if not (is_off(value) or value in row.unless):
                self.lose(key, value, row.why)
        else:
            try:
                converted = row.value(value)
            except (ValueError, TypeError, AttributeError) as error:
                self.lose(key, value, str(error) if isinstance(error, ValueError) else "unreadable")
                return
            self.carry(key, row.ours, converted, changed=row.changed)

    # -- our side -----------------------------------------------------------------------------

    def carry(
        self, theirs: str, ours: str, value: Any, *, changed: str = "", comment: str = ""
    ) -> None:
        """Sets a key of ours from one of theirs, if ours works; else says why it does not."""
        key = key_table()[ours]
        if key.state != "works":
            if value is not None and not is_off(value):
                self.lose(theirs, self.theirs.get(theirs), _why_not(key))
            return
        if theirs in self.theirs:
            self.carried[theirs] = ours
        if value is None:
            return
        self.set(ours, value, comment)
        if changed:
            self.change(theirs, changed)

    def set(self, ours: str, value: Any, comment: str = "") -> None:
        """Sets a key of ours."""
        self.ours[ours] = Setting(value, comment)

    def set_default(self, ours: str, value: Any) -> None:
        """Writes a default of theirs down, if it is not ours too and the key works."""
        key = key_table()[ours]
        if key.state == "works" and (key.is_required or value != key.default):
            self.set(ours, value, f"{self.tool}'s default")

    def change(self, key: str, why: str) -> None:
        """Notes that a key means something else now."""
        self.changed.append(Note(key, shown(self.theirs.get(key)), why))

    def lose(self, key: str, value: Any, why: str) -> None:
        """Notes that a key was left out."""
        self.lost.append(Note(key, shown(value), why))


def _why_not(key: Key) -> str:
    """Why a key of ours does nothing, for somebody who does not have it in his file yet."""
    reason = key.instead or key.sentence
    for advice in ("; remove it", ": remove it", "remove it"):
        reason = reason.removesuffix(advice)
    return reason if key.state == "not supported" else f"no effect here: {reason}"


def shown(value: Any) -> str:
    """A value of theirs in a few words, without secrets."""
    if value is None:
        return ""
    if isinstance(value, Mapping) and "_component_" in value:
        value = str(value["_component_"]).rsplit(".", 1)[-1]
    text = hide(" ".join(str(value).split()))
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."

"""Where a layout finds its texts: by columns, and by turns within a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ft.data.layout import Fields, list_field, objects_field, text_field, written_field
from ft.data.segments import RecordError

Part = Callable[[Fields], str]
"""Reads one text of a record; raises a RecordError where there is none."""


def column(*names: str) -> Part:
    """The first of these columns that is there."""

    def read(record: Fields) -> str:
        present = (name for name in names if record.get(name) is not None)
        return written_field(record, next(present, names[0]))

    return read


def turn(name: str, index: int) -> Part:
    """The content of one turn of a column that holds a conversation."""

    def read(record: Fields) -> str:
        turns = turns_field(record, name)
        if index >= len(turns):
            detail = f"{len(turns)}, turn {index + 1} is wanted"
            raise RecordError(f"field {name!r} has too few turns", detail)
        return written_field(turns[index], "content")

    return read


def turns_field(record: Fields, name: str) -> Sequence[Fields]:
    """A column's turns, at least one.

    Raises:
        RecordError: It is missing, null, or no list of turns.
    """
    turns = objects_field(record, name)
    if not turns:
        raise RecordError(f"field {name!r} has no turns")
    return turns


def present_field(record: Fields, name: str) -> Any:
    """A required field's value.

    Raises:
        RecordError: It is missing or null.
    """
    value = record.get(name)
    return text_field(record, name) if value is None else value


def is_desirable(record: Fields, name: str) -> bool:
    """A judgment: true or false, or 1 or 0.

    Raises:
        RecordError: It is something else.
    """
    value = present_field(record, name)
    if value not in (True, False) or not isinstance(value, int):
        raise RecordError(f"field {name!r} is neither true nor false", repr(value)[:200])
    return bool(value)


def step_labels(record: Fields, name: str) -> tuple[int, ...]:
    """The class of each step; true is 1 and false is 0.

    Raises:
        RecordError: It is no list of whole numbers.
    """
    values = list_field(record, name)
    if not all(isinstance(each, int) for each in values):
        raise RecordError(f"field {name!r} is no list of true and false", repr(values)[:200])
    return tuple(map(int, values))


def step_texts(record: Fields, name: str) -> tuple[str, ...]:
    """The steps.

    Raises:
        RecordError: It is no list of texts.
    """
    values = list_field(record, name)
    if not all(isinstance(each, str) for each in values):
        raise RecordError(f"field {name!r} is no list of texts", repr(values)[:200])
    return tuple(values)

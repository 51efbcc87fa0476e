"""Records that count more or less than others: a field of each says how much."""

from __future__ import annotations

import numpy as np

from ft.data.records import Record
from ft.data.segments import RecordError
from ft.runtime.errors import Problem, UserError

_LARGEST_FLOAT = float(np.finfo(np.float32).max)


def record_weight(record: Record, field: str | None) -> float:
    """What the record's tokens count; 1 where no field says it.

    Args:
        record: As it was read.
        field: `field_weight`.

    Raises:
        RecordError: The record lacks the field.
        UserError: The field holds no number, or one below 0.
    """
    if field is None:
        return 1.0
    value = record.fields.get(field)
    if value is None:
        raise RecordError(f"missing field {field!r}", "it holds the record's weight")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LARGEST_FLOAT:
        raise UserError(
            Problem(
                f"the weight in field {field!r} is {value!r}",
                where=str(record.origin),
                fix="a number from 0 up: 1 counts as usual, 0 leaves the record out",
            )
        )
    return float(np.float32(value))  # as it is kept

"""A record's label as numbers, which stand in a row where other rows have the ids to be learned.

    one of several    its number                        -  -  -  1
    any number        their numbers, from small to large   -  -  0  4
    none of them      the number behind the last label  -  -  -  L
    a number          the 32 bits of the float          -  -  -  0x3f800000

`IGNORE_INDEX` as the bits of a float is no number, so nothing is taken for a label that is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ft.data.classification.counts import NONE
from ft.data.segments import IGNORE_INDEX, RecordError
from ft.spec.classification import Classification

_SHOWN = 10
_LARGEST_FLOAT = float(np.finfo(np.float32).max)


def target_of(value: Any, task: Classification) -> tuple[int, ...]:
    """What a record's label is learned as.

    Args:
        value: What the record holds.
        task: The labels that there are.

    Raises:
        RecordError: It is none of them, or of another kind.
    """
    if task.is_regression:
        return (_bits(value),)
    if task.is_multi_label:
        return _numbers(value, task.labels) or (len(task.labels),)
    return (label_number(value, task.labels),)


def label_number(value: Any, labels: Sequence[str]) -> int:
    """The number of the label that a value names: by its name, or by the number itself.

    Raises:
        RecordError: There is no such label.
    """
    name = label_name(value)
    if name in labels:
        return labels.index(name)
    written = str(int(value)) if isinstance(value, bool) else name
    if written.isdecimal() and int(written) < len(labels):
        return int(written)
    known = ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    raise RecordError("unknown label", f"label {value!r}; the labels are {known}"[:300])


def label_name(value: Any) -> str:
    """A label as it is called: texts as they are, whole numbers and truth values written out.

    Raises:
        RecordError: It is nothing that could be a label.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with gaps holds 1.0
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, str) and value):
        return str(value)
    what = "empty" if value in ("", None) else f"{type(value).__name__}: {value!r}"[:200]
    raise RecordError("no label", f"the label is {what}")


def is_one_each(value: Sequence[Any]) -> bool:
    """Whether a list has a value for every label (1.0, 0.0, ...), not the labels themselves."""
    return bool(value) and all(isinstance(each, bool | float) for each in value)


def _numbers(value: Any, labels: Sequence[str]) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if is_one_each(values):
        if len(values) != len(labels) or not all(each in (0, 1) for each in values):
            what = f"{values!r}, expected {len(labels)} values of 0 or 1"[:300]
            raise RecordError("not one value a label", what)
        return tuple(number for number, is_there in enumerate(values) if is_there)
    numbers = sorted(label_number(each, labels) for each in values)
    if len(set(numbers)) != len(numbers):
        what = f"{values!r}; for one value a label write 1.0 and 0.0, or true and false"[:300]
        raise RecordError("a label is given twice", what)
    return tuple(numbers)


def _bits(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RecordError("label is no number", f"got {type(value).__name__}: {value!r}"[:200])
    if abs(value) > _LARGEST_FLOAT or math.isnan(value):
        raise RecordError("label is no number", f"got {value!r}, which fp32 can't hold"[:200])
    return int(np.float32(value).view(np.int32))


def targets_of(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The numbers that a row's labels hold, int32 [k]."""
    targets: npt.NDArray[np.int32] = labels[labels != IGNORE_INDEX]
    return targets


def target_in_words(labels: Sequence[int], task: Classification) -> str:
    """The label that a row's labels hold, by its name; empty if they hold none.

    Args:
        labels: Of one row, as `target_of` numbers them.
        task: The labels that there are.
    """
    targets = targets_of(np.asarray(labels, np.int32))
    if task.is_regression:
        return ", ".join(f"{value:g}" for value in as_floats(targets).tolist())
    names = [*task.labels, NONE]
    return ", ".join(names[number] for number in targets.tolist())


def as_floats(bits: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """The numbers of a regression, from their bits; of the same shape."""
    return np.ascontiguousarray(bits, np.int32).view(np.float32)


def as_indicators(numbers: npt.NDArray[np.int32], num_labels: int) -> npt.NDArray[np.int64]:
    """Label numbers of one record as one value a label, int64 [L]; "none" is all zeros."""
    indicators = np.zeros(num_labels + 1, np.int64)
    indicators[numbers] = 1
    return indicators[:num_labels]

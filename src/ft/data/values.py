"""What is known of a token beside its label: numbers that an objective weighs its loss with.

A row may hold `values`, arrays [T, ...] by name, of which the t-th belongs to the t-th label. They
go through packs and layouts just as labels do: joined end to end, shifted by one, and kept where
logits are made. Where a row of a batch has none, a fill stands in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ft.data.tokenized import TEACHER_IDS, TEACHER_LOGPROBS, WEIGHT

__all__ = [
    "TEACHER_IDS",
    "TEACHER_LOGPROBS",
    "WEIGHT",
    "Values",
    "flat_values",
    "join_values",
    "padded_values",
    "values_of",
]

Values = Mapping[str, npt.NDArray[Any]]

_FILLS: Mapping[str, float] = {WEIGHT: 1.0, TEACHER_IDS: 0, TEACHER_LOGPROBS: -math.inf}
"""What stands in where a row has no values of a name."""


def values_of(row: Any) -> Values:
    """A row's values; most rows have none."""
    return getattr(row, "values", {})


def join_values(rows: Sequence[Any]) -> Values:
    """The values of rows that are joined end to end."""
    shapes = _shapes(rows)
    return {
        name: np.concatenate([_of(row, name, shape) for row in rows])
        for name, shape in shapes.items()
    }


def padded_values(
    rows: Sequence[Any], width: int, kept: npt.NDArray[np.int64]
) -> dict[str, Tensor]:
    """[B, K, ...] by name, aligned with the targets of a padded batch.

    Args:
        rows: The batch's.
        width: Tokens of the longest of them.
        kept: Columns with logits.
    """
    values = {}
    for name, shape in _shapes(rows).items():
        held = np.full((len(rows), width, *shape[0]), _FILLS[name], dtype=shape[1])
        for i, row in enumerate(rows):
            held[i, : len(row.labels) - 1] = _of(row, name, shape)[1:]
        values[name] = torch.from_numpy(held[:, kept])
    return values


def flat_values(rows: Sequence[Any], kept: npt.NDArray[np.int64]) -> dict[str, Tensor]:
    """[1, K, ...] by name, aligned with the targets of a flat batch; arguments as above."""
    values = {}
    for name, shape in _shapes(rows).items():
        fill = np.full((1, *shape[0]), _FILLS[name], dtype=shape[1])
        parts = [part for row in rows for part in (_of(row, name, shape)[1:], fill)]
        values[name] = torch.from_numpy(np.concatenate(parts)[kept])[None]
    return values


_Shape = tuple[tuple[int, ...], np.dtype[Any]]


def _shapes(rows: Sequence[Any]) -> dict[str, _Shape]:
    """Names of which some row has values, with the largest shape of a token's and their type."""
    shapes: dict[str, _Shape] = {}
    for row in rows:
        for name, array in values_of(row).items():
            shape = array.shape[1:]
            largest = max(shape, shapes[name][0]) if name in shapes else shape
            shapes[name] = (largest, array.dtype)
    return shapes


def _of(row: Any, name: str, shape: _Shape) -> npt.NDArray[Any]:
    array = values_of(row).get(name)
    if array is not None and array.shape[1:] == shape[0]:
        return array
    filled = np.full((len(row.labels), *shape[0]), _FILLS[name], dtype=shape[1])
    if array is not None:  # fewer columns than the widest row of the batch has
        filled[:, : array.shape[1]] = array
    return filled

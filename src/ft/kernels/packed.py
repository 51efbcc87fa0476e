"""A frozen matrix, at hand or in few bits of either form, and the plain one it stands for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ft.kernels import four_bit, grouped
from ft.kernels.four_bit import FourBitWeight
from ft.kernels.grouped import GroupedWeight

PackedWeight = FourBitWeight | GroupedWeight
FrozenWeight = Tensor | PackedWeight


def plain_weight(weight: FrozenWeight, *, after: Tensor | None = None) -> Tensor:
    """``[O, I]``: the weight at hand itself, or in the format that the packed one was made of.

    Args:
        weight: The weight.
        after: As of ``four_bit.dequantize``.
    """
    if isinstance(weight, Tensor):
        return weight
    if isinstance(weight, GroupedWeight):
        return grouped.dequantize_grouped(weight, after=after)
    return four_bit.dequantize(weight, after=after)


def fields_of(weight: FrozenWeight) -> tuple[Any, ...]:
    """What autograd is handed in place of the weight."""
    return (weight,) if isinstance(weight, Tensor) else tuple(weight)


def num_tensors(weight: FrozenWeight) -> int:
    """So many of its fields are tensors, the first ones; the others are constants."""
    if isinstance(weight, Tensor):
        return 1
    is_grouped = isinstance(weight, GroupedWeight)
    return grouped.NUM_TENSORS if is_grouped else four_bit.NUM_TENSORS


def from_fields(is_grouped: bool, fields: tuple[Any, ...]) -> FrozenWeight:
    """The weight of its fields, as autograd hands them on."""
    if len(fields) == 1:
        weight: Tensor = fields[0]
        return weight
    return GroupedWeight(*fields) if is_grouped else FourBitWeight(*fields)

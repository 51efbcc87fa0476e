"""A matrix in few bits, in whichever form it is packed, and the plain one that it stands for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ft.kernels import four_bit, grouped
from ft.kernels.four_bit import FourBitWeight
from ft.kernels.grouped import GroupedWeight

PackedWeight = FourBitWeight | GroupedWeight


def plain_weight(weight: PackedWeight, *, after: Tensor | None = None) -> Tensor:
    """``[O, I]`` in the format that the packed weight was made of.

    Args:
        weight: The packed weight.
        after: As of ``four_bit.dequantize``.
    """
    if isinstance(weight, GroupedWeight):
        return grouped.dequantize_grouped(weight, after=after)
    return four_bit.dequantize(weight, after=after)


def num_tensors(weight: PackedWeight) -> int:
    """So many of its fields are tensors, the first ones; the others are constants."""
    is_grouped = isinstance(weight, GroupedWeight)
    return grouped.NUM_TENSORS if is_grouped else four_bit.NUM_TENSORS


def from_fields(is_grouped: bool, fields: tuple[Any, ...]) -> PackedWeight:
    """A packed weight of its fields, as autograd hands them on."""
    return GroupedWeight(*fields) if is_grouped else FourBitWeight(*fields)

"""Weights in 4 bits, as bitsandbytes packs them, and what they stand for.

Blocks of 64 codes share a scale; the scales are themselves held in 8 bits, in blocks of 256
(double quantization): QLoRA, https://arxiv.org/abs/2305.14314, equations 5 and 6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

NF4_VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The 16 values of a normal float, appendix E of the paper."""


class FourBitWeight(NamedTuple):
    """One packed matrix; its tensors are the library's own, not copies."""

    codes: Tensor
    """Two codes a byte, the first in the high half, under whatever storage format."""
    scales: Tensor
    """One a block: fp32, or uint8 codes into ``scale_values``."""
    scale_values: Tensor | None
    """fp32 [256]; None where the scales are not quantized."""
    scale_scales: Tensor | None
    """fp32, one for each ``scale_block`` scales."""
    scale_offset: Tensor | None
    """fp32 scalar, added to every scale."""
    scale_block: int
    block: int
    kind: str
    """``nf4`` or ``fp4``."""
    shape: tuple[int, int]
    dtype: torch.dtype
    """Of the matrix before it was packed, and again after ``dequantize``."""


def dequantize(weight: FourBitWeight, *, after: Tensor | None = None) -> Tensor:
    """The matrix that a packed weight stands for, ``weight.shape`` in ``weight.dtype``.

    Args:
        weight: The packed weight.
        after: In the backward pass, what that begins with. A compiler that sees both passes at once
            would find the same matrix in both, make it once and keep it in between, which is what
            packing is there to avoid; this input, otherwise unused, tells the two apart.
    """
    matrix: Tensor = torch.ops.ft.dequantize_4bit(*weight, after)
    return matrix


_LIBRARY: Any = torch.library.Library("ft", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "dequantize_4bit(Tensor codes, Tensor scales, Tensor? scale_values, Tensor? scale_scales, "
    "Tensor? scale_offset, int scale_block, int block, str kind, int[] shape, ScalarType dtype, "
    "Tensor? after) -> Tensor"
)


@torch.library.impl(_LIBRARY, "dequantize_4bit", "CompositeExplicitAutograd")
def _dequantize(*parts: Any) -> Tensor:
    """One op for scales and matrix: nothing in between is kept either."""
    weight = FourBitWeight(*parts[:-1])
    scales = weight.scales
    if weight.scale_values is not None:
        scales = torch.ops.bitsandbytes.dequantize_blockwise.default(
            scales, weight.scale_scales, weight.scale_values, weight.scale_block, torch.float32
        )
        scales += weight.scale_offset
    matrix: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
        weight.codes, scales, weight.block, weight.kind, weight.shape, weight.dtype
    )
    return matrix


@torch.library.register_fake("ft::dequantize_4bit", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _dequantize_fake(*parts: Any) -> Tensor:
    weight = FourBitWeight(*parts[:-1])
    return weight.codes.new_empty(weight.shape, dtype=weight.dtype)


def dequantize_by_table(weight: FourBitWeight) -> Tensor:
    """The eager definition, for NF4: value of the code times scale of its block."""
    packed = weight.codes.reshape(-1).view(torch.uint8).to(torch.int64)
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten()
    scales = weight.scales
    if weight.scale_values is not None:
        assert weight.scale_scales is not None
        assert weight.scale_offset is not None
        block = torch.arange(len(scales), device=scales.device) // weight.scale_block
        scales = weight.scale_values[scales.long()] * weight.scale_scales[block]
        scales = scales + weight.scale_offset
    table = torch.tensor(NF4_VALUES, device=codes.device)
    rows, columns = weight.shape
    values = table[codes[: rows * columns]].view(-1, weight.block) * scales[:, None]
    return values.to(weight.dtype).view(rows, columns)

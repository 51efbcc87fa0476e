"""Weights in 4 bits, as bitsandbytes packs them, and what they stand for.

Blocks of 64 codes share a scale; the scales are themselves held in 8 bits, in blocks of 256
(double quantization): QLoRA, https://arxiv.org/abs/2305.14314, equations 5 and 6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class FourBitWeight(NamedTuple):
    """One packed matrix; its tensors are the library's own, not copies."""

    codes: Tensor
    """uint8, two codes a byte, the first in the high half."""
    scales: Tensor
    """One a block: fp32, or uint8 codes into ``scale_values``."""
    scale_values: Tensor | None
    """fp32 [256]; None where the scales are not quantized."""
    scale_scales: Tensor | None
    """fp32, one for each ``scale_block`` scales."""
    scale_offset: Tensor | None
    """fp32 scalar, added to every scale."""
    values: Tensor
    """fp32 [16]: what the codes stand for."""
    scale_block: int
    block: int
    kind: str
    """``nf4`` or ``fp4``."""
    shape: tuple[int, int]
    dtype: torch.dtype
    """Of the matrix before it was packed, and again after ``dequantize``."""


NUM_TENSORS = 6
"""The first fields of a weight; the others are constants."""


def dequantize(weight: FourBitWeight, *, after: Tensor | None = None) -> Tensor:
    """The matrix that a packed weight stands for, ``weight.shape`` in ``weight.dtype``.

    A compiler that sees plain scales gets the definition itself, of which it makes one kernel;
    else it is the library's. Both give the same bits.

    Args:
        weight: The packed weight.
        after: In the backward pass, what that begins with. A compiler that sees both passes at once
            would find the same matrix in both, make it once and keep it in between, which is what
            packing is there to avoid; this input, otherwise unused, tells the two apart.
    """
    if torch.compiler.is_compiling() and weight.kind == "nf4" and weight.scale_values is None:
        if after is not None:  # plus nothing; a gradient that is no number stays none
            weight = weight._replace(scales=weight.scales + 0.0 * after.flatten()[0].float())
        return dequantize_by_definition(weight)
    matrix: Tensor = torch.ops.ft.dequantize_4bit(*weight, after)
    return matrix


def with_plain_scales(weight: FourBitWeight) -> FourBitWeight:
    """The same weight with its scales in fp32: 0.5 bits a value instead of 0.125."""
    if weight.scale_values is None:
        return weight
    return weight._replace(
        scales=block_scales(weight), scale_values=None, scale_scales=None, scale_offset=None
    )


def block_scales(weight: FourBitWeight) -> Tensor:
    """The scale of each block, fp32."""
    if weight.scale_values is None or weight.scale_offset is None:
        return weight.scales
    scales: Tensor = torch.ops.bitsandbytes.dequantize_blockwise.default(
        weight.scales,
        weight.scale_scales,
        weight.scale_values,
        weight.scale_block,
        torch.float32,
    )
    return scales + weight.scale_offset


def dequantize_by_definition(weight: FourBitWeight) -> Tensor:
    """The eager definition: value of the code times scale of its block, in fp32, then rounded.

    Pointwise, and indexed by views only: block, byte of the block, half of the byte.
    """
    bytes_NB = weight.codes.view(-1, weight.block // 2, 1).to(torch.int32)
    shifts = 4 - 4 * torch.arange(2, dtype=torch.int32, device=bytes_NB.device)
    codes = (bytes_NB >> shifts) & 15
    values = weight.values[codes] * block_scales(weight)[:, None, None]
    return values.to(weight.dtype).view(weight.shape)


_LIBRARY: Any = torch.library.Library("ft", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "dequantize_4bit(Tensor codes, Tensor scales, Tensor? scale_values, Tensor? scale_scales, "
    "Tensor? scale_offset, Tensor values, int scale_block, int block, str kind, int[] shape, "
    "ScalarType dtype, Tensor? after) -> Tensor"
)


@torch.library.impl(_LIBRARY, "dequantize_4bit", "CompositeExplicitAutograd")
def _dequantize(*parts: Any) -> Tensor:
    """One op for scales and matrix: nothing in between is kept either."""
    weight = FourBitWeight(*parts[:-1])
    matrix: Tensor = torch.ops.bitsandbytes.dequantize_4bit.default(
        weight.codes, block_scales(weight), weight.block, weight.kind, weight.shape, weight.dtype
    )
    return matrix


@torch.library.register_fake("ft::dequantize_4bit", lib=_LIBRARY)  # type: ignore[untyped-decorator]
def _dequantize_fake(*parts: Any) -> Tensor:
    weight = FourBitWeight(*parts[:-1])
    return weight.codes.new_empty(weight.shape, dtype=weight.dtype)

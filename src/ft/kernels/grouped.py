"""Weights in few bits as GPTQ and AWQ checkpoints hold them, and what they stand for.

    W[o, i] = scale[o, g(i)] * (code[o, i] - zero[o, g(i)])

g(i) is the group of input i: each has a scale and a zero of its own for every output. Codes lie in
int32 words, the first lowest: GPTQ's along the inputs, AWQ's along the outputs and within a word in
the order 0 2 4 6 1 3 5 7. Sources: https://arxiv.org/abs/2210.17323, https://arxiv.org/abs/2306.00978.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

_WORD_BITS = 32

Layout = Literal["gptq", "awq"]
"""Where the codes of a word belong."""


class GroupedWeight(NamedTuple):
    """One packed matrix of O outputs and I inputs in G groups."""

    codes: Tensor
    """int32: ``[I * bits / 32, O]`` of GPTQ, ``[I, O * bits / 32]`` of AWQ."""
    zeros: Tensor
    """int16 ``[O, G]``: the code that stands for 0."""
    scales: Tensor
    """``[O, G]``, in the checkpoint's format: fp16 as a rule."""
    groups: Tensor | None
    """int32 ``[I]``: the group of each input; None where groups are equal runs of inputs."""
    layout: Layout
    bits: int
    """2, 4 or 8; of AWQ 4."""


NUM_TENSORS = 4
"""The first fields of a weight; the others are constants."""


def dequantize_grouped(weight: GroupedWeight, *, after: Tensor | None = None) -> Tensor:
    """The matrix that a packed weight stands for: ``[O, I]`` in the format of its scales.

    Args:
        weight: The packed weight.
        after: As of ``four_bit.dequantize``: keeps a compiler from making the matrix once for both
            passes.
    """
    codes, scales = _codes(weight), weight.scales
    if after is not None and torch.compiler.is_compiling():
        scales = scales + 0.0 * after.flatten()[0].to(scales.dtype)
    if weight.groups is not None:
        zeros = weight.zeros.index_select(1, weight.groups)
        return (codes - zeros) * scales.index_select(1, weight.groups)
    grouped = codes.reshape(*scales.shape, -1)
    matrix: Tensor = (grouped - weight.zeros[:, :, None]) * scales[:, :, None]
    return matrix.flatten(1)


def unpack_columns(words: Tensor, layout: Layout, bits: int) -> Tensor:
    """Words along the last dimension as codes: ``[R, C]`` int32 to ``[R, C * 32 / bits]`` int16."""
    codes = _parts(words, bits)
    if layout == "awq":
        codes = codes.view(*words.shape, 2, -1).transpose(-1, -2)
    return codes.flatten(1)


def _codes(weight: GroupedWeight) -> Tensor:
    if weight.layout == "awq":
        return unpack_columns(weight.codes, "awq", weight.bits).t()
    return unpack_columns(weight.codes.t(), "gptq", weight.bits)


def _parts(words: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, _WORD_BITS, bits, dtype=torch.int32, device=words.device)
    parts: Any = (words.unsqueeze(-1) >> shifts) & (2**bits - 1)
    codes: Tensor = parts.to(torch.int16)
    return codes

"""A product with a frozen weight: no gradient for it, and no matrix of it kept by autograd.

    y = x W^T + b        dx = dy W

Eager definition: ``torch.nn.functional.linear`` with the dequantized weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ft.kernels import grouped
from ft.kernels.four_bit import NUM_TENSORS, FourBitWeight, dequantize
from ft.kernels.grouped import GroupedWeight, dequantize_grouped

PackedWeight = FourBitWeight | GroupedWeight
"""A matrix in few bits."""


def frozen_linear(x: Tensor, weight: Tensor | PackedWeight, bias: Tensor | None = None) -> Tensor:
    """The product, in the format of ``x``.

    Args:
        x: ``[*, I]`` in the compute format.
        weight: ``[O, I]``, at hand or packed; packed, it is dequantized in each pass anew.
        bias: ``[O]``, frozen.

    Returns:
        ``[*, O]``; bit for bit the same, packed or at hand.
    """
    bias = None if bias is None else bias.to(x.dtype)
    if isinstance(weight, Tensor):
        return linear(x, weight.to(x.dtype), bias)
    kind: Any = _GroupedLinear if isinstance(weight, GroupedWeight) else _PackedLinear
    product: Tensor = kind.apply(x, bias, *weight)
    return product


class _PackedLinear(torch.autograd.Function):
    """Keeps the packed weight only, which is there anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *parts: Any) -> Tensor:
        weight = FourBitWeight(*parts)
        ctx.save_for_backward(*weight[:NUM_TENSORS])
        ctx.constants = weight[NUM_TENSORS:]
        return linear(x, dequantize(weight).to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight = FourBitWeight(*ctx.saved_tensors, *ctx.constants)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ dequantize(weight, after=grad).to(grad.dtype)
        return grad_x, None, *([None] * len(weight))


class _GroupedLinear(torch.autograd.Function):
    """The same for the other packed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *parts: Any) -> Tensor:
        weight = GroupedWeight(*parts)
        ctx.save_for_backward(*weight[: grouped.NUM_TENSORS])
        ctx.constants = weight[grouped.NUM_TENSORS :]
        return linear(x, dequantize_grouped(weight).to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight = GroupedWeight(*ctx.saved_tensors, *ctx.constants)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ dequantize_grouped(weight, after=grad).to(grad.dtype)
        return grad_x, None, *([None] * len(weight))

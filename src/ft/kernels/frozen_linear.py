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

from ft.kernels.grouped import GroupedWeight
from ft.kernels.packed import PackedWeight, from_fields, num_tensors, plain_weight


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
    is_grouped = isinstance(weight, GroupedWeight)
    product: Tensor = _PackedLinear.apply(x, bias, is_grouped, *weight)  # type: ignore[no-untyped-call]
    return product


class _PackedLinear(torch.autograd.Function):
    """Keeps the packed weight only, which is there anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, is_grouped: bool, *fields: Any) -> Tensor:
        weight = from_fields(is_grouped, fields)
        ctx.save_for_backward(*fields[: num_tensors(weight)])
        ctx.constants = fields[num_tensors(weight) :]
        ctx.is_grouped = is_grouped
        return linear(x, plain_weight(weight).to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight = from_fields(ctx.is_grouped, (*ctx.saved_tensors, *ctx.constants))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ plain_weight(weight, after=grad).to(grad.dtype)
        return grad_x, None, None, *([None] * len(weight))

"""A product with a frozen weight: no gradient for it, and no matrix of it kept by autograd.

    y = x W^T + u + b        dx = dy W, du = dy        u: an update, where there is one

Product and update are rounded once, together. Rounded one by one, a small update is either lost
(LoRA's first ones are below half a step of bf16 of y) or, where something else is added first,
decides all the ties of that sum, and so counts for more than it is. On a CPU ``addmm`` is such a
sum. On CUDA it is not (H200, torch 2.11: bit for bit the sum of two roundings), so there the
product comes in fp32, and whatever adds to it next rounds.

Eager definition: ``torch.nn.functional.linear`` with the dequantized weight, plus the update.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ft.kernels.grouped import GroupedWeight
from ft.kernels.packed import FrozenWeight, fields_of, from_fields, num_tensors, plain_weight


def frozen_linear(
    x: Tensor,
    weight: FrozenWeight,
    bias: Tensor | None = None,
    *,
    update: Tensor | None = None,
) -> Tensor:
    """The product, in the format of ``x``.

    Args:
        x: ``[*, I]`` in the compute format.
        weight: ``[O, I]``, at hand or packed; packed, it is dequantized in each pass anew.
        bias: ``[O]``, frozen.
        update: ``[*, O]`` or ``[T, O]`` in the format of ``x``; its gradient is the output's.

    Returns:
        ``[*, O]``; bit for bit the same, packed or at hand.
    """
    bias = None if bias is None else bias.to(x.dtype)
    is_grouped, fields = isinstance(weight, GroupedWeight), fields_of(weight)
    if update is None:
        if isinstance(weight, Tensor):
            return linear(x, weight.to(x.dtype), bias)
        product: Tensor = _FrozenLinear.apply(x, None, bias, is_grouped, *fields)  # type: ignore[no-untyped-call]
        return product
    y_TO: Tensor = _FrozenLinear.apply(  # type: ignore[no-untyped-call]
        x.flatten(0, -2), update.flatten(0, -2), None, is_grouped, *fields
    )
    # Outside of the function: what is added to it in place keeps its gradient.
    y = y_TO.view(*x.shape[:-1], update.shape[-1])
    return y if bias is None else y + bias


class _FrozenLinear(torch.autograd.Function):
    """Keeps the weight only, as it was given, which is there anyway."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        bias: Tensor | None,
        is_grouped: bool,
        *fields: Any,
    ) -> Tensor:
        weight = from_fields(is_grouped, fields)
        ctx.save_for_backward(*fields[: num_tensors(weight)])
        ctx.constants = fields[num_tensors(weight) :]
        ctx.is_grouped = is_grouped
        plain = plain_weight(weight).to(x.dtype)
        return linear(x, plain, bias) if update is None else _rounded_once(x, plain, update)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        fields = (*ctx.saved_tensors, *ctx.constants)
        needs_x, needs_update = ctx.needs_input_grad[:2]
        grad_x = None
        if needs_x:
            weight = from_fields(ctx.is_grouped, fields)
            grad_x = grad @ plain_weight(weight, after=grad).to(grad.dtype)
        return grad_x, grad if needs_update else None, None, None, *([None] * len(fields))


def _rounded_once(x_TI: Tensor, weight_OI: Tensor, update_TO: Tensor) -> Tensor:
    if x_TI.is_cuda and x_TI.dtype in (torch.bfloat16, torch.float16):
        product: Tensor = torch.ops.ft.product_in_fp32(x_TI, weight_OI)
        return (product + update_TO).to(x_TI.dtype)
    return torch.addmm(update_TO, x_TI, weight_OI.t())


torch.library.define(
    "ft::product_in_fp32",
    "(Tensor x, Tensor weight) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("ft::product_in_fp32", "CUDA")
def _product_on_cuda(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return torch.mm(x_TI, weight_OI.t(), out_dtype=torch.float32)


@torch.library.register_fake("ft::product_in_fp32")  # type: ignore[untyped-decorator]
def _product_without_values(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    return x_TI.new_empty((x_TI.shape[0], weight_OI.shape[0]), dtype=torch.float32)

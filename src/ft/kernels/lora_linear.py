"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + s (d(x) A^T) B^T + b        d: dropout

W is frozen, A and B are trained. Product and update are rounded once, together. Rounded one by one,
a small update is either lost (the first steps' are below half a step of bf16 of y) or, where
something else is added first, decides all the ties of that sum, and so counts for more than it is.
On a CPU ``addmm`` is such a sum. On CUDA it is not (H200, torch 2.11: bit for bit the sum of two
roundings), so there the product comes in fp32, and whatever adds to it next rounds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, linear

from ft.kernels.grouped import GroupedWeight
from ft.kernels.packed import PackedWeight, from_fields, num_tensors, plain_weight


def lora_linear(
    x: Tensor,
    weight: Tensor | PackedWeight,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    *,
    scaling: float = 1.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """The layer's output, in the format of ``x``.

    Args:
        x: ``[*, I]`` in the compute format; everything is computed in it.
        weight: ``[O, I]``, frozen: at hand, or packed in few bits.
        bias: ``[O]``, frozen.
        a: ``[r, I]``, trained, of any float format.
        b: ``[O, r]``, likewise.
        scaling: s; 1 where b comes with it.
        dropout_p: Of the update's input; 0 outside training.

    Returns:
        ``[*, O]``.
    """
    low = linear(dropout(x, dropout_p) if dropout_p else x, a.to(x.dtype))
    scaled = (b if scaling == 1 else b * scaling).to(x.dtype)
    fields: tuple[Any, ...] = (weight,) if isinstance(weight, Tensor) else tuple(weight)
    form = Tensor if isinstance(weight, Tensor) else type(weight)
    y_TO: Tensor = _UpdatedProduct.apply(  # type: ignore[no-untyped-call]
        x.flatten(0, -2), low.flatten(0, -2), scaled, form is GroupedWeight, *fields
    )
    y = y_TO.view(*x.shape[:-1], -1)  # outside: what is added to it in place keeps its gradient
    return y if bias is None else y + bias.to(x.dtype)


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)


class _UpdatedProduct(torch.autograd.Function):
    """x W^T + low B^T, of ``[T, I]`` and ``[T, r]``.

    Keeps low, B and the weight as it was given, which is there anyway.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, b: Tensor, is_grouped: bool, *fields: Any
    ) -> Tensor:
        num_kept = 1 if len(fields) == 1 else num_tensors(from_fields(is_grouped, fields))
        ctx.save_for_backward(low, b, *fields[:num_kept])
        ctx.constants, ctx.is_grouped = fields[num_kept:], is_grouped
        weight = _plain(is_grouped, fields).to(x.dtype)
        return _rounded_once(x, weight, linear(low, b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        low, b, *kept = ctx.saved_tensors
        fields = (*kept, *ctx.constants)
        needs_x, needs_low, needs_b = ctx.needs_input_grad[:3]
        grad_x = grad_low = grad_b = None
        if needs_x:
            grad_x = grad @ _plain(ctx.is_grouped, fields, after=grad).to(grad.dtype)
        if needs_low:
            grad_low = grad @ b
        if needs_b:
            grad_b = grad.t() @ low
        return grad_x, grad_low, grad_b, None, *([None] * len(fields))


def _plain(is_grouped: bool, fields: tuple[Any, ...], *, after: Tensor | None = None) -> Tensor:
    """The frozen weight ``[O, I]`` of a function's arguments."""
    if len(fields) == 1:
        weight: Tensor = fields[0]
        return weight
    return plain_weight(from_fields(is_grouped, fields), after=after)


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

"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + s (d(x) A^T) B^T + b        d: dropout

W is frozen, A and B are trained. Product and update are rounded once, together: the product is
accumulated onto the update, inside the matrix product, in fp32. Rounded one by one, a small update
is either lost (the first steps' are below half a step of bf16 of y) or, where something else is
added first, decides all the ties of that sum, and so counts for more than it is.

``addmm`` has the same sum, but a compiler lets it copy the update first; so it is an operation of
ours that writes into its first argument.
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
    y: Tensor = _UpdatedProduct.apply(x, low, scaled, form is GroupedWeight, *fields)  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias.to(x.dtype)


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)


class _UpdatedProduct(torch.autograd.Function):
    """x W^T + low B^T: keeps low, B and the weight as it was given, which is there anyway."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, low: Tensor, b: Tensor, is_grouped: bool, *fields: Any
    ) -> Tensor:
        num_kept = 1 if len(fields) == 1 else num_tensors(from_fields(is_grouped, fields))
        ctx.save_for_backward(low, b, *fields[:num_kept])
        ctx.constants, ctx.is_grouped = fields[num_kept:], is_grouped
        y = linear(low, b)
        weight = _plain(is_grouped, fields).to(x.dtype)
        torch.ops.ft.add_product_(y.flatten(0, -2), x.flatten(0, -2), weight)
        return y

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
            grad_b = grad.flatten(0, -2).t() @ low.flatten(0, -2)
        return grad_x, grad_low, grad_b, None, *([None] * len(fields))


def _plain(is_grouped: bool, fields: tuple[Any, ...], *, after: Tensor | None = None) -> Tensor:
    """The frozen weight ``[O, I]`` of a function's arguments."""
    if len(fields) == 1:
        weight: Tensor = fields[0]
        return weight
    return plain_weight(from_fields(is_grouped, fields), after=after)


torch.library.define(
    "ft::add_product_",
    "(Tensor(a!) sum, Tensor x, Tensor weight) -> ()",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl("ft::add_product_", "CompositeExplicitAutograd")
def _add_product(sum_TO: Tensor, x_TI: Tensor, weight_OI: Tensor) -> None:
    sum_TO.addmm_(x_TI, weight_OI.t())


@torch.library.register_fake("ft::add_product_")  # type: ignore[untyped-decorator]
def _add_no_product(sum_TO: Tensor, x_TI: Tensor, weight_OI: Tensor) -> None:
    """Writes into its first argument, and gives nothing."""

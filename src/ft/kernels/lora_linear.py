"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + s (d(x) A^T) B^T + b        d: dropout

W is frozen, A and B are trained; s goes into B on the way to the compute format. The update is
rounded together with the frozen product (``ft.kernels.frozen_linear`` says why).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import dropout, linear

from ft.kernels.frozen_linear import frozen_linear
from ft.kernels.packed import FrozenWeight


def lora_linear(
    x: Tensor,
    weight: FrozenWeight,
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
    scaled = b if scaling == 1 else b * scaling
    return frozen_linear(x, weight, bias, update=linear(low, scaled.to(x.dtype)))


def updates_of_one_input(
    x: Tensor, a: Tensor, b: Tensor, num_rows: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """(x A^T) B^T of several layers that read the same x, without dropout: in few products.

    One with all A, and one with the B of neighbours of one shape. The gradient of x is one product
    too: it is rounded once, where those of layer by layer are rounded one by one and added.

    Args:
        x: ``[*, I]``.
        a: ``[n r, I]``, the layers' A one below the other.
        b: ``[O_1 + .. + O_n, r]``, likewise, with their scalings.
        num_rows: O of each.

    Returns:
        ``[T, O_i]`` for each; a layer's own update up to the order of its sums.
    """
    low_TR = linear(x.flatten(0, -2), a.to(x.dtype))  # flat: gradients are written where they go
    updates: tuple[Tensor, ...] = _Updates.apply(low_TR, b.to(x.dtype), num_rows)  # type: ignore[no-untyped-call]
    return updates


class _Updates(torch.autograd.Function):
    """Several products at once, whose gradients are made one by one.

    At once they would need the outputs' gradients side by side, which come from anywhere.
    """

    @staticmethod
    def forward(
        ctx: Any, low_TR: Tensor, b_Or: Tensor, num_rows: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(low_TR, b_Or)
        ctx.num_rows = num_rows
        rank, place, row = b_Or.shape[1], 0, 0
        updates: list[Tensor] = []
        for size, run in groupby(num_rows):
            count = len(list(run))
            low = low_TR.narrow(1, place * rank, count * rank)
            b = b_Or.narrow(0, row, count * size)
            if count == 1:
                updates.append(low @ b.t())
            else:
                lows = low.view(low.shape[0], count, rank).transpose(0, 1)
                updates += torch.bmm(lows, b.view(count, size, rank).transpose(1, 2)).unbind()
            place, row = place + count, row + count * size
        return tuple(updates)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        low_TR, b_Or = ctx.saved_tensors
        lows = low_TR.split_with_sizes([b_Or.shape[1]] * len(gradients), dim=1)
        bs = b_Or.split_with_sizes(list(ctx.num_rows))
        grad_low = torch.cat([g @ b for g, b in zip(gradients, bs, strict=True)], dim=1)
        grad_b = torch.cat([g.t() @ low for g, low in zip(gradients, lows, strict=True)])
        return grad_low, grad_b, None


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)

"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + b + s (d(x) A^T) B^T        d: dropout

W is frozen, A and B are trained. Both products with the factors are small; what they cost is the
reading and writing of y, so the second one adds to the frozen product in one call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout, linear

from ft.kernels.four_bit import FourBitWeight
from ft.kernels.frozen_linear import frozen_linear


def lora_linear(
    x: Tensor,
    weight: Tensor | FourBitWeight,
    bias: Tensor | None,
    a: Tensor,
    b: Tensor,
    *,
    scaling: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """The layer's output, in the format of ``x``.

    Args:
        x: ``[*, I]`` in the compute format; everything is computed in it.
        weight: ``[O, I]``, frozen: at hand, or packed in 4 bits.
        bias: ``[O]``, frozen.
        a: ``[r, I]``, trained, of any float format.
        b: ``[O, r]``, likewise.
        scaling: s.
        dropout_p: Of the update's input; 0 outside training.

    Returns:
        ``[*, O]``.
    """
    frozen = frozen_linear(x, weight, bias)
    low = linear(dropout(x, dropout_p) if dropout_p else x, a.to(x.dtype))
    update = b.to(x.dtype).t()
    y = torch.addmm(frozen.flatten(0, -2), low.flatten(0, -2), update, alpha=scaling)
    return y.view_as(frozen)


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)

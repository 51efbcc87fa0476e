"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + b + s (d(x) A^T) B^T        d: dropout

W is frozen, A and B are trained. Both products with the factors are small; what they cost is
launches, and the reading and writing of y. So s goes into B on the way to the compute format, and
the sum is left to whatever comes next, with which a compiler fuses it: added inside the product
(``addmm``), y would be copied first.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import dropout, linear

from ft.kernels.frozen_linear import frozen_linear
from ft.kernels.packed import PackedWeight


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
    frozen = frozen_linear(x, weight, bias)
    low = linear(dropout(x, dropout_p) if dropout_p else x, a.to(x.dtype))
    scaled = b if scaling == 1 else b * scaling
    return frozen + linear(low, scaled.to(x.dtype))


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)

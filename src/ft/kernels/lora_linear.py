"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + s (d(x) A^T) B^T + b        d: dropout

W is frozen, A and B are trained; s goes into B on the way to the compute format. The update is
rounded together with the frozen product (``ft.kernels.frozen_linear`` says why).
"""

from __future__ import annotations

from torch import Tensor
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


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)

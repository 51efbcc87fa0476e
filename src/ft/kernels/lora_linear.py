"""A frozen linear layer with a low-rank update: LoRA, https://arxiv.org/abs/2106.09685, equation 3.

    y = x W^T + s (d(x) A^T) B^T + b        d: dropout

W is frozen, A and B are trained; s goes into B on the way to the compute format. The update is
rounded together with the frozen product (``ft.kernels.frozen_linear`` says why).
"""

from __future__ import annotations

from collections.abc import Sequence

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
    return with_update(x, weight, bias, low, b, scaling=scaling)


def low_products(x: Tensor, a: Tensor, ranks: Sequence[int]) -> tuple[Tensor, ...]:
    """One product for several layers that read the same x, and views of it: x A^T of each.

    The gradient of x is one product too: it is rounded once, where those of layer by layer are
    rounded one by one and added.

    Args:
        x: ``[*, I]``.
        a: ``[R, I]``, the layers' A one below the other.
        ranks: Rows of each, R together.

    Returns:
        ``[T, r]`` for each; a layer's own product up to the order of its sums.
    """
    low_TR = linear(x.flatten(0, -2), a.to(x.dtype))  # flat: the views' gradients need no copies
    return low_TR.split_with_sizes(list(ranks), dim=-1)


def with_update(
    x: Tensor, weight: FrozenWeight, bias: Tensor | None, low: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The layer's output where ``low``, ``[*, r]`` or ``[T, r]``, is there; see ``lora_linear``."""
    scaled = b if scaling == 1 else b * scaling
    return frozen_linear(x, weight, bias, update=linear(low, scaled.to(x.dtype)))


def lora_linear_eager(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, *, scaling: float
) -> Tensor:
    """The definition, without dropout."""
    return linear(x, weight, bias) + scaling * linear(linear(x, a), b)

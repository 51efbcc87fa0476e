"""Many tensors, scaled and cast at once: a launch or two instead of one for each.

    y_i = cast(s_i x_i)        dx_i = s_i cast(dy_i)

Eager definition: ``(x * s).to(dtype)``, tensor by tensor, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scaled_cast(
    tensors: Sequence[Tensor], scales: Sequence[float], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The tensors in another format, one node of autograd for all of them.

    Args:
        tensors: Of one format and device, of any shapes.
        scales: One a tensor; the product is made in the tensors' format.
        dtype: What comes out.
    """
    cast: tuple[Tensor, ...] = _ScaledCast.apply(tuple(scales), dtype, *tensors)  # type: ignore[no-untyped-call]
    return cast


class _ScaledCast(torch.autograd.Function):
    """Gradients come when the last of the casts' are there."""

    @staticmethod
    def forward(
        ctx: Any, scales: tuple[float, ...], dtype: torch.dtype, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.scales, ctx.dtype = scales, tensors[0].dtype
        ctx.set_materialize_grads(False)
        scaled = [t for t, scale in zip(tensors, scales, strict=True) if scale != 1]
        products = iter(torch._foreach_mul(scaled, [s for s in scales if s != 1]) if scaled else ())
        sources = [
            t if scale == 1 else next(products) for t, scale in zip(tensors, scales, strict=True)
        ]
        casts = [torch.empty_like(t, dtype=dtype) for t in tensors]
        torch._foreach_copy_(casts, sources)
        return tuple(casts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [g for g in gradients if g is not None]
        casts = [torch.empty_like(g, dtype=ctx.dtype) for g in there]
        if there:
            torch._foreach_copy_(casts, there)
        given = iter(casts)
        results = [None if g is None else next(given) for g in gradients]
        pairs = zip(results, ctx.scales, strict=True)
        scaled = [(r, scale) for r, scale in pairs if r is not None and scale != 1]
        if scaled:
            torch._foreach_mul_([r for r, _ in scaled], [scale for _, scale in scaled])
        return None, None, *results

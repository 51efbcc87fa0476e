"""Many tensors, scaled and cast at once: a launch or two instead of one for each.

    y_i = cast(s_i x_i)        dx_i = s_i cast(dy_i)

Some of them may come out stacked, one below the other in one tensor, at no launch more.

Eager definition: ``(x * s).to(dtype)``, tensor by tensor, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def scaled_cast(
    tensors: Sequence[Tensor],
    scales: Sequence[float],
    dtype: torch.dtype,
    *,
    stacks: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """The tensors in another format, one node of autograd for all of them.

    Args:
        tensors: Of one format and device, of any shapes.
        scales: One a tensor; the product is made in the tensors' format.
        dtype: What comes out.
        stacks: How many tensors, in their order, come out as one, stacked along the first
            dimension (the others must agree); they add up to the number of tensors. None: each by
            itself.

    Returns:
        One for each of ``stacks``.
    """
    counts = tuple(stacks) if stacks is not None else (1,) * len(tensors)
    cast: tuple[Tensor, ...] = _ScaledCast.apply(tuple(scales), counts, dtype, *tensors)  # type: ignore[no-untyped-call]
    return cast


class _ScaledCast(torch.autograd.Function):
    """Gradients come when the last of the casts' are there."""

    @staticmethod
    def forward(
        ctx: Any,
        scales: tuple[float, ...],
        counts: tuple[int, ...],
        dtype: torch.dtype,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.scales, ctx.dtype = scales, tensors[0].dtype
        ctx.set_materialize_grads(False)
        given = iter(tensors)
        stacks = [list(islice(given, count)) for count in counts]
        ctx.num_rows = [[t.shape[0] for t in stack] for stack in stacks]
        scaled = [t for t, scale in zip(tensors, scales, strict=True) if scale != 1]
        products = iter(torch._foreach_mul(scaled, [s for s in scales if s != 1]) if scaled else ())
        sources = [
            t if scale == 1 else next(products) for t, scale in zip(tensors, scales, strict=True)
        ]
        pairs = zip(stacks, ctx.num_rows, strict=True)
        casts = [_room_for(stack, rows, dtype) for stack, rows in pairs]
        torch._foreach_copy_(_parts(casts, ctx.num_rows), sources)
        return tuple(casts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        parts = _parts(gradients, ctx.num_rows)
        there = [g for g in parts if g is not None]
        casts = [torch.empty_like(g, dtype=ctx.dtype) for g in there]
        if there:
            torch._foreach_copy_(casts, there)
        given = iter(casts)
        results = [None if g is None else next(given) for g in parts]
        pairs = zip(results, ctx.scales, strict=True)
        scaled = [(r, scale) for r, scale in pairs if r is not None and scale != 1]
        if scaled:
            torch._foreach_mul_([r for r, _ in scaled], [scale for _, scale in scaled])
        return None, None, None, *results


def _room_for(stack: list[Tensor], num_rows: list[int], dtype: torch.dtype) -> Tensor:
    if len(stack) == 1:
        return torch.empty_like(stack[0], dtype=dtype)
    return stack[0].new_empty((sum(num_rows), *stack[0].shape[1:]), dtype=dtype)


def _parts(stacks: Sequence[Tensor | None], num_rows: list[list[int]]) -> list[Any]:
    """The stacked tensors one by one; None for each of a stack that is None."""
    parts: list[Tensor | None] = []
    for stack, rows in zip(stacks, num_rows, strict=True):
        if len(rows) == 1:
            parts.append(stack)
        elif stack is None:
            parts += [None] * len(rows)
        else:
            parts += stack.split_with_sizes(rows)
    return parts

"""The output head and the loss in one: the logits of all tokens are never there together.

    loss = sum over rows k of  log sum_v exp(z_kv) - z_k,t(k),    z = h W^T,  t(k) >= 0

Rows go through in chunks. The gradient is made beside the loss, while a chunk's logits are there:
dz = softmax(z) - onehot(t), dh = dz W, dW = dz^T h; the backward pass scales it. The idea is that
of Liger's fused linear cross-entropy, https://arxiv.org/abs/2410.10989, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear

IGNORED = -100

MAX_CHUNK_LOGITS = 2**26
"""Logits of a chunk: 128 MiB in bf16, and twice that while they are exponentiated in fp32."""

Softmax = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
    softmax: Softmax | None = None,
) -> Tensor:
    """The loss, summed over the rows that have a target.

    Args:
        hidden: ``[K, H]``; under autocast, products run in its format.
        weight: ``[V, H]``; gets a gradient if it wants one.
        targets: int64 ``[K]``, each below V or -100, which counts nothing.
        max_chunk_logits: Rows times V of one chunk.
        softmax: A compiled ``loss_and_gradient``.

    Returns:
        fp32 scalar.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    chunk_rows = max(1, max_chunk_logits // weight.shape[0])
    softmax = softmax or loss_and_gradient
    if not torch.is_grad_enabled() or not (hidden.requires_grad or weight.requires_grad):
        return _loss_only(hidden, weight.to(hidden.dtype), targets, chunk_rows, softmax)
    loss: Tensor = _HeadAndLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, chunk_rows, softmax
    )
    return loss


def linear_cross_entropy_eager(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The definition."""
    logits = linear(hidden, weight.to(hidden.dtype)).float()
    return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Summed loss (fp32) and its gradient at the logits (in their format) of one chunk.

    Pointwise operations and row sums only, so that a compiler makes few kernels of it.
    """
    is_trained = targets != IGNORED
    z = logits.float()
    z = z - z.amax(dim=-1, keepdim=True)
    exp = z.exp()
    total = exp.sum(dim=-1, keepdim=True)
    is_target = torch.arange(logits.shape[-1], device=logits.device) == targets[:, None]
    losses = total.log().squeeze(-1) - torch.where(is_target, z, 0.0).sum(dim=-1)
    gradient = torch.where(is_trained[:, None], exp / total - is_target.float(), 0.0)
    return torch.where(is_trained, losses, 0.0).sum(), gradient.to(logits.dtype)


def _loss_only(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int, softmax: Softmax
) -> Tensor:
    loss = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(hidden), chunk_rows):
        rows = slice(start, start + chunk_rows)
        loss += softmax(linear(hidden[rows], weight), targets[rows])[0]
    return loss


class _HeadAndLoss(torch.autograd.Function):
    """Holds dh, and dW for a trained head, from the forward pass to the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_rows: int, softmax: Softmax
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        w = weight.to(hidden.dtype)
        loss = hidden.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(hidden), chunk_rows):
            rows = slice(start, start + chunk_rows)
            part, gradient = softmax(linear(hidden[rows], w), targets[rows])
            loss += part
            if grad_hidden is not None:
                torch.mm(gradient, w, out=grad_hidden[rows])
            if grad_weight is not None:
                grad_weight += gradient.t() @ hidden[rows]
        ctx.gradients = grad_hidden, grad_weight
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Scales in place, so a second backward pass is refused."""
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * scale).to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None

"""Attention that keeps what the real kernels keep, and computes nothing.

    query [1, H, T, D]   key, value [1, G, T, D]    ->    output [1, T, H, D]

For the backward pass a flash-attention kernel keeps query, key, value, its output and one fp32
number a query and head (the log-sum-exp); Dao et al., FlashAttention-2, 2023. A layer that is run
with this on tensors without values keeps those, whatever the machine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

STAND_IN = "ft_plan_attention"
"""The name under which it is registered with transformers."""


def register_stand_in() -> None:
    """Makes ``attn_implementation="ft_plan_attention"`` known to transformers."""
    AttentionInterface.register(STAND_IN, _attention)


@torch.library.custom_op("ft_plan::attention", mutates_args=())
def _kernel(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("a stand-in for planning: it has no values")


@_kernel.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    log_sum_exp = query.new_empty((query.shape[1], query.shape[0]), dtype=torch.float32)
    return torch.empty_like(query), log_sum_exp


@torch.library.custom_op("ft_plan::attention_backward", mutates_args=())
def _backward_kernel(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError("a stand-in for planning: it has no values")


@_backward_kernel.register_fake
def _(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> Any:
    return _backward_kernel(gradient, *ctx.saved_tensors)


_kernel.register_autograd(_backward, setup_context=_keep)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """As ``ft.model.varlen`` calls its kernel."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else value.dtype
    q, k, v = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    return _kernel(q, k, v)[0].unsqueeze(0), None

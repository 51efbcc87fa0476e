"""Attention of records laid end to end: torch's flash attention, as one operation a pass.

    query [T, H, D]   key, value [T', G, D]   ->   output [T, H, D]

T tokens, H heads, G of keys, D a head's size; record n has the queries from ``cu_q[n]`` to
``cu_q[n + 1]``. Flash attention: https://arxiv.org/abs/2307.08691. Eager definition:
``ft.model.varlen.per_record_attention``.

torch has the same in ``torch.nn.attention.varlen``, behind an operation whose arguments a compiler
cannot pass on from C++, and which passes several layers of Python at each call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SCHEMA = (
    "Tensor cu_q, Tensor cu_k, SymInt max_q, SymInt max_k, SymInt left, SymInt right, float scale"
)
torch.library.define(
    "ft::varlen_attention",
    f"(Tensor query, Tensor key, Tensor value, {_SCHEMA}) -> (Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "ft::varlen_attention_backward",
    "(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor output, Tensor log_sum_exp, "
    f"{_SCHEMA}) -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seq_lens: tuple[Tensor, Tensor],
    max_lengths: tuple[int, int],
    window: tuple[int, int],
    scale: float,
) -> Tensor:
    """Each record's own attention, on CUDA, in half precision.

    Args:
        query: ``[T, H, D]``, bf16 or fp16.
        key: ``[T', G, D]``.
        value: Like key.
        cu_seq_lens: Boundaries of queries and keys, int32 ``[N+1]`` each.
        max_lengths: The longest record's queries and keys.
        window: Tokens seen to the left and to the right, -1 = all; causal is ``(-1, 0)``.
        scale: Factor of the logits.

    Returns:
        ``[T, H, D]``.
    """
    output: Tensor = torch.ops.ft.varlen_attention(
        query, key, value, *cu_seq_lens, *max_lengths, *window, scale
    )[0]
    return output


@torch.library.impl("ft::varlen_attention", "CUDA")
def _on_cuda(*operands: Any) -> tuple[Tensor, Tensor]:
    *tensors_and_lengths, left, right, scale = operands
    output, log_sum_exp, *_ = torch.ops.aten._flash_attention_forward(
        *tensors_and_lengths,
        dropout_p=0.0,
        is_causal=(left, right) == (-1, 0),
        return_debug_mask=False,
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )
    return output, log_sum_exp


@torch.library.impl("ft::varlen_attention_backward", "CUDA")
def _backward_on_cuda(*operands: Any) -> tuple[Tensor, Tensor, Tensor]:
    *tensors_and_lengths, left, right, scale = operands
    no_dropout = torch.empty(2, dtype=torch.uint64, device=operands[0].device)
    gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        *tensors_and_lengths,
        dropout_p=0.0,
        is_causal=(left, right) == (-1, 0),
        rng_state=no_dropout,
        unused=no_dropout[:0],
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )
    return gradients


@torch.library.register_fake("ft::varlen_attention")  # type: ignore[untyped-decorator]
def _without_values(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    num_queries, num_heads = query.shape[:2]
    log_sum_exp = query.new_empty((num_heads, num_queries), dtype=torch.float32)
    return torch.empty_like(query), log_sum_exp


@torch.library.register_fake("ft::varlen_attention_backward")  # type: ignore[untyped-decorator]
def _backward_without_values(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cu_q, cu_k, *ctx.numbers = inputs
    ctx.save_for_backward(query, key, value, *output, cu_q, cu_k)


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.ft.varlen_attention_backward(gradient, *ctx.saved_tensors, *ctx.numbers)
    return (*gradients, *(7 * [None]))


torch.library.register_autograd("ft::varlen_attention", _backward, setup_context=_keep)

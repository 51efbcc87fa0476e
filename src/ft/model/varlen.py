"""Attention over a flat batch: records laid end to end in one row, none seeing another.

    query [1, H, T, D]   key, value [1, G, T, D]    ->    output [1, T, H, D]
    cu_seq_lens [N+1] = 0, len_0, len_0 + len_1, ..., T

H query heads, G key-value heads, T tokens of N records, D head dimension. On CUDA one call of
torch's variable-length kernel; elsewhere one scaled dot product attention a record, which is also
what the kernel is tested against. There is no mask and no padding here, so it serves one row only:
padded batches (batched generation) run with sdpa, see ``LoadedModel.inference``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from ft.kernels import varlen_attention as kernel
from ft.model.attention import VARLEN

_UNKNOWN_MATHS = ("softcap", "s_aux", "position_bias")
"""Arguments of other models' attention that would change the result and are not computed here."""


def register_varlen() -> None:
    """Makes ``attn_implementation="ft_varlen"`` known to transformers.

    No mask function is registered with it: transformers then builds no mask at all.
    """
    AttentionInterface.register(VARLEN, varlen_attention)


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, with ``cu_seq_lens_*``, ``max_length_*`` among options.

    Without boundaries they are read from ``position_ids``, which start anew at each record; and
    when a cache holds earlier tokens (generation), the row is one record.

    Returns:
        The output ``[1, T, H, D]``, and None for the weights.

    Raises:
        ValueError: a mask, several rows, dropout or maths that are not computed here.
    """
    _refuse_what_would_be_wrong(query, attention_mask, options)
    is_causal = options.get("is_causal")
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    window = _window(is_causal, options.get("sliding_window"))
    cu_q = options.get("cu_seq_lens_q")
    cu_k = options.get("cu_seq_lens_k")
    if cu_q is None or cu_k is None:
        cu_q, cu_k = _find_boundaries(query, key, options.get("position_ids"))
    if query.device.type != "cuda":
        return per_record_attention(query, key, value, (cu_q, cu_k), window, scaling), None
    longest_q, longest_k = options.get("max_length_q"), options.get("max_length_k")
    longest = longest_q or int(cu_q.diff().max()), longest_k or int(cu_k.diff().max())
    return _kernel_attention(query, key, value, (cu_q, cu_k), longest, window, scaling), None


def per_record_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_lens: tuple[Tensor, Tensor],
    window: tuple[int, int],
    scaling: float | None,
) -> Tensor:
    """The eager definition: each record's own attention, laid end to end again.

    Args:
        query: ``[1, H, T, D]``.
        key: ``[1, G, T, D]``, G a divisor of H.
        value: Like key.
        cu_seq_lens: Boundaries of the queries and of the keys, ``[N+1]`` each.
        window: Tokens seen to the left and to the right, -1 = all; causal is ``(-1, 0)``.
        scaling: Factor of the logits; None = 1 / sqrt(D).

    Returns:
        ``[1, T, H, D]``.
    """
    key, value = (_repeat_heads(x, query.shape[1], dim=1) for x in (key, value))
    bounds_q, bounds_k = (cu.tolist() for cu in cu_seq_lens)
    outputs = [
        functional.scaled_dot_product_attention(
            query[:, :, q0:q1],
            key[:, :, k0:k1],
            value[:, :, k0:k1],
            attn_mask=_visible(q1 - q0, k1 - k0, window, query.device),
            scale=scaling,
        )
        for q0, q1, k0, k1 in zip(bounds_q, bounds_q[1:], bounds_k, bounds_k[1:], strict=False)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _kernel_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_lens: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    window: tuple[int, int],
    scaling: float | None,
) -> Tensor:
    # Rotary embeddings in fp32 leave query and key in fp32 under autocast, the value in half.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    q_THD, k_TGD, v_TGD = (x[0].transpose(0, 1).to(dtype) for x in (query, key, value))
    output_THD = kernel.varlen_attention(
        q_THD,
        k_TGD,
        v_TGD,
        cu_seq_lens=tuple(cu.to(torch.int32) for cu in cu_seq_lens),  # type: ignore[arg-type]
        max_lengths=longest,
        window=window,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
    )
    return output_THD.unsqueeze(0)


def _refuse_what_would_be_wrong(
    query: Tensor, attention_mask: Tensor | None, options: dict[str, Any]
) -> None:
    if query.shape[0] != 1:
        raise ValueError(
            f"{VARLEN} takes one flat row, got {query.shape[0]}: use sdpa when padding"
        )
    if attention_mask is not None:
        raise ValueError(f"{VARLEN} takes no attention mask: give cu_seq_lens_q, cu_seq_lens_k")
    if options.get("dropout"):
        raise ValueError(f"{VARLEN} has no attention dropout")
    if unknown := [name for name in _UNKNOWN_MATHS if options.get(name) is not None]:
        raise ValueError(f"{VARLEN} does not compute {', '.join(unknown)}: use eager")


def _window(is_causal: bool, sliding_window: int | None) -> tuple[int, int]:
    """Tokens seen to the left and right. A sliding window of W tokens counts the token itself."""
    left = -1 if sliding_window is None else sliding_window - 1
    return (left, 0) if is_causal else (left, left)


def _find_boundaries(
    query: Tensor, key: Tensor, position_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    num_queries, num_keys = query.shape[2], key.shape[2]
    ends = torch.tensor([0, num_queries]), torch.tensor([0, num_keys])
    is_whole_row = num_queries == num_keys and num_queries > 1
    if not is_whole_row or position_ids is None or position_ids.numel() != num_queries:
        cu_q, cu_k = (cu.to(query.device) for cu in ends)
        return cu_q, cu_k
    is_start = position_ids.flatten().diff() != 1
    starts = is_start.nonzero().flatten() + 1
    cu = functional.pad(functional.pad(starts, (1, 0)), (0, 1), value=num_queries)
    return cu, cu


def _repeat_heads(x: Tensor, num_heads: int, dim: int) -> Tensor:
    repeats = num_heads // x.shape[dim]
    return x if repeats == 1 else x.repeat_interleave(repeats, dim=dim)


def _visible(
    num_queries: int, num_keys: int, window: tuple[int, int], device: torch.device
) -> Tensor | None:
    """Which keys each query sees, ``[num_queries, num_keys]``; both end at the same token."""
    left, right = window
    if window == (-1, -1):
        return None
    query_at = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key_at = torch.arange(num_keys, device=device)[None, :]
    visible = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
    if left >= 0:
        visible &= key_at >= query_at - left
    if right >= 0:
        visible &= key_at <= query_at + right
    return visible

"""Which attention a model runs with, and why.

    flash_attention_2   flash-attn, where it is installed and loads
    ft_varlen           torch's own variable-length attention (``ft.model.varlen``)
    sdpa                torch's scaled dot product attention: everywhere, but padded
    eager               plain matrix products

The first two take a flat batch: all records of a micro-batch in one row [1, T], ``position_ids``
that start anew at each record, no attention mask, and the boundaries as ``cu_seq_lens_q``,
``cu_seq_lens_k`` (int32, ``[num_records + 1]``), ``max_length_q``, ``max_length_k`` (int) beside
the other arguments of ``model(...)``. That is what ``is_varlen`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from ft.model.hardware import Hardware
from ft.model.precision import NumberFormat

VARLEN = "ft_varlen"
"""The name under which ``ft.model.varlen`` is registered with transformers."""

MAX_HEAD_DIM = 256
"""Largest head that the flash-attention kernels, flash-attn's and torch's, can hold."""


@dataclass(frozen=True)
class Attention:
    """The choice: what transformers is told, whether batches are flat, and the reason."""

    implementation: str
    is_varlen: bool
    reason: str


@dataclass(frozen=True)
class AttentionTraits:
    """What a model says about its attention; read from its class and config, without weights."""

    supports_attention_backend: bool = True
    supports_flash_attn: bool = True
    supports_sdpa: bool = True
    supports_flat_batches: bool = True
    """False for what carries state along the row: recurrent, linear and chunked layers."""
    has_softcap: bool = False
    has_dropout: bool = False
    head_dim: int = 64


def read_attention_traits(config: Any) -> AttentionTraits:
    """The traits of the causal language model, or the encoder, that a config describes."""
    text = config.get_text_config()
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(
        type(config), None
    ) or MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    layer_types = set(getattr(text, "layer_types", None) or ())
    is_stateful = getattr(model_class, "_is_stateful", False)
    heads = getattr(text, "num_attention_heads", None) or 1
    return AttentionTraits(
        supports_attention_backend=getattr(model_class, "_supports_attention_backend", False),
        supports_flash_attn=getattr(model_class, "_supports_flash_attn", False),
        supports_sdpa=getattr(model_class, "_supports_sdpa", False),
        supports_flat_batches=layer_types <= {"full_attention", "sliding_attention"}
        and not is_stateful,
        has_softcap=getattr(text, "attn_logit_softcapping", None) is not None,
        has_dropout=bool(
            getattr(text, "attention_dropout", 0.0) or getattr(text, "attn_pdrop", 0.0)
        ),
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
    )


def choose_attention(
    requested: str, hardware: Hardware, traits: AttentionTraits, *, compute: NumberFormat
) -> Attention:
    """The best attention for what was asked for.

    Args:
        requested: The key ``attn_implementation``.
        hardware: What it will run on.
        traits: What the model can do.
        compute: The format of query, key and value.

    Returns:
        The choice; ``reason`` names what was asked for and is missing.
    """
    plain = "sdpa" if traits.supports_sdpa else "eager"
    if requested == "eager" or requested == plain:
        return Attention(requested, is_varlen=False, reason="as asked for")
    wanted = _CANDIDATES_FOR.get(requested, _OTHERS)
    obstacles: list[str] = []
    for candidate in wanted:
        obstacle = candidate.obstacle(hardware, traits, compute, requested)
        if obstacle is None:
            reason = _explain(requested, obstacles, candidate.title)
            is_flat = traits.supports_flat_batches
            return Attention(candidate.implementation, is_flat, reason)
        obstacles.append(obstacle)
    if plain == "eager":
        obstacles.append("the model has no sdpa attention")
    return Attention(plain, is_varlen=False, reason=_explain(requested, obstacles))


def _explain(requested: str, obstacles: list[str], title: str = "") -> str:
    """Why the choice fell as it did; what is shown beside it, its name, is not said again."""
    if not obstacles:
        return "the fastest there is" if requested == "auto" else "as asked for"
    asked = [] if requested == "auto" else [f"{requested} asked for"]
    using = [f"using {title}"] if title else []
    return "; ".join([*asked, *dict.fromkeys(obstacles), *using])


def _kernel_obstacle(
    hardware: Hardware, traits: AttentionTraits, compute: NumberFormat
) -> str | None:
    """What keeps any flash kernel from running: the card, the format, the model's heads."""
    if not hardware.is_ampere_or_later:
        return "no CUDA card of capability 8.0 or more"
    if compute == "fp32":
        return "the kernels compute in half precision only"
    if traits.head_dim > MAX_HEAD_DIM:
        return f"heads of {traits.head_dim} are wider than {MAX_HEAD_DIM}"
    return None


def _flash_obstacle(
    hardware: Hardware, traits: AttentionTraits, compute: NumberFormat, requested: str
) -> str | None:
    if obstacle := _kernel_obstacle(hardware, traits, compute):
        return obstacle
    if not hardware.has_flash_attn:
        return "flash-attn is not installed"
    return None if traits.supports_flash_attn else "the model has no flash attention"


def _varlen_obstacle(
    hardware: Hardware, traits: AttentionTraits, compute: NumberFormat, requested: str
) -> str | None:
    if not (traits.supports_attention_backend and traits.supports_sdpa):
        return "the model takes no attention backends"
    if not traits.supports_flat_batches:
        return "the model carries state across the records of a row"
    if traits.has_softcap:
        return "the model caps its attention logits"
    if traits.has_dropout:
        return "the model drops attention weights out"
    if requested == "varlen" and hardware.kind == "cpu":
        return None
    if obstacle := _kernel_obstacle(hardware, traits, compute):
        return obstacle
    return None if hardware.has_varlen else "this torch has no varlen attention"


def _missing_obstacle(
    hardware: Hardware, traits: AttentionTraits, compute: NumberFormat, requested: str
) -> str | None:
    """Of a backend that is not built here: another one computes the same attention."""
    if "/" in requested:
        return "kernels from the hub are foreign code"
    return _NOT_BUILT.get(requested, "it is not built here")


@dataclass(frozen=True)
class _Candidate:
    implementation: str
    title: str
    """What `implementation` stands for, where its name does not tell."""
    obstacle: Callable[[Hardware, AttentionTraits, NumberFormat, str], str | None]


_FLASH = _Candidate("flash_attention_2", "", _flash_obstacle)
_VARLEN = _Candidate(VARLEN, "torch's varlen attention", _varlen_obstacle)
_MISSING = _Candidate("", "", _missing_obstacle)
_NOT_BUILT = {
    "xformers": "transformers has no xformers attention",
    "sage": "its 8-bit products are not built here",
    "fp8": "its 8-bit products are not built here",
}

_CANDIDATES_FOR: dict[str, tuple[_Candidate, ...]] = {
    "auto": (_FLASH, _VARLEN),
    "flash_attention_2": (_FLASH, _VARLEN),
    "varlen": (_VARLEN,),
    "sdpa": (),
}
_OTHERS = (_MISSING, _FLASH, _VARLEN)
"""What is tried, in this order, before plain attention."""

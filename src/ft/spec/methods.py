"""The ways to tune, as far as they can be told without loading anything.

One entry a value of `adapter:`: its name in papers, the keys that it takes, the bases on which a
library cannot train it, and whether what it learned can be merged. What makes it is in
``ft.model.methods``, under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Bits = Literal["load_in_4bit", "load_in_8bit"]

_TARGETS = frozenset({"lora_target_modules", "lora_target_linear", "lora_modules_to_save"})
_LAYERS = frozenset({"peft_layers_to_transform", "peft_layers_pattern"})
_RANK, _ALPHA, _DROPOUT = "lora_r", "lora_alpha", "lora_dropout"
_GO_ON, _TRANSPOSED = "lora_model_dir", "lora_fan_in_fan_out"


@dataclass(frozen=True)
class Method:
    """One way to tune."""

    title: str
    """Its name in papers and tables."""
    paper: str
    """arXiv's number."""
    keys: frozenset[str]
    """What it takes beside ``adapter`` and the keys of the base."""
    refuses: Mapping[Bits, str] = field(default_factory=dict)
    """Bases in few bits on which it is not trained, and why."""
    needs_padding: bool = False
    """Records are padded to rows: what it puts before or into them stands once in each row."""
    is_merged: bool = True
    """Whether what it learned becomes part of the base's weights."""
    learns_tokens: bool = True
    """Whether embeddings of new tokens can be trained beside it."""
    recomputes: bool = True
    """Whether layers can be computed again in the backward pass."""


_LORA = Method(
    "LoRA",
    "2106.09685",
    _TARGETS
    | _LAYERS
    | {
        _RANK,
        _ALPHA,
        _DROPOUT,
        _GO_ON,
        _TRANSPOSED,
        "lora_target_parameters",
        "lora_rank_pattern",
        "lora_alpha_pattern",
        "peft_use_rslora",
        "peft_use_dora",
        "peft_init_lora_weights",
        "peft_trainable_token_indices",
        "loraplus_lr_ratio",
        "loraplus_lr_embedding",
    },
)
_PACKED: dict[Bits, str] = {
    "load_in_4bit": "its update has the shape of the weight, and 4-bit weights are held in another"
}

_MULTIPLIED: dict[Bits, str] = dict.fromkeys(
    ("load_in_4bit", "load_in_8bit"),
    "peft multiplies the weight itself, and what few bits hold is not the weight",
)

METHODS: dict[str, Method] = {
    "lora": _LORA,
    "qlora": Method("QLoRA", "2305.14314", _LORA.keys),
    "adalora": Method(
        "AdaLoRA",
        "2303.10512",
        _TARGETS
        | {_RANK, _ALPHA, _DROPOUT, _TRANSPOSED, "init_r", "tinit", "tfinal", "deltaT"}
        | {"orth_reg_weight"},
    ),
    "ia3": Method("IA3", "2205.05638", _TARGETS | {_GO_ON, _TRANSPOSED, "feedforward_modules"}),
    "vera": Method(
        "VeRA",
        "2310.11454",
        _TARGETS
        | _LAYERS
        | {_RANK, _DROPOUT, _GO_ON, _TRANSPOSED, "projection_prng_key", "d_initial"},
    ),
    "oft": Method(
        "OFT", "2306.07280", _TARGETS | _LAYERS | {_GO_ON, _TRANSPOSED, "oft_block_size"}
    ),
    "boft": Method(
        "BOFT",
        "2311.06243",
        _TARGETS | _LAYERS | {_GO_ON, _TRANSPOSED, "boft_block_size", "boft_n_butterfly_factor"},
    ),
    "hra": Method("HRA", "2405.17484", _TARGETS | _LAYERS | {_RANK, _GO_ON}, refuses=_MULTIPLIED),
    "loha": Method(
        "LoHa", "2108.06098", _TARGETS | _LAYERS | {_RANK, _ALPHA, _GO_ON}, refuses=_PACKED
    ),
    "lokr": Method(
        "LoKr",
        "2309.14859",
        _TARGETS | _LAYERS | {_RANK, _ALPHA, _GO_ON, "decompose_factor"},
        refuses=_PACKED,
    ),
    "fourierft": Method(
        "FourierFT", "2405.03003", _TARGETS | _LAYERS | {_GO_ON, _TRANSPOSED, "n_frequency"}
    ),
    "prefix_tuning": Method(
        "prefix tuning, P-tuning v2",
        "2101.00190, 2110.07602",
        frozenset({_GO_ON, "num_virtual_tokens", "prefix_projection", "encoder_hidden_size"}),
        recomputes=False,
        needs_padding=True,
        is_merged=False,
        learns_tokens=False,
    ),
    "prompt_tuning": Method(
        "prompt tuning",
        "2104.08691",
        frozenset({_GO_ON, "num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text"}),
        needs_padding=True,
        is_merged=False,
        learns_tokens=False,
    ),
    "p_tuning": Method(
        "P-tuning",
        "2103.10385",
        frozenset(
            {
                "num_virtual_tokens",
                "encoder_reparameterization_type",
                "encoder_hidden_size",
                "encoder_num_layers",
                "encoder_dropout",
            }
        ),
        needs_padding=True,
        is_merged=False,
        learns_tokens=False,
    ),
    "llama-adapter": Method(
        "LLaMA-Adapter (adaption prompt)",
        "2303.16199",
        frozenset({_GO_ON, "adapter_len", "adapter_layers"}),
        needs_padding=True,
        is_merged=False,
        learns_tokens=False,
    ),
}
"""By the values of `adapter:`."""

IDLE_ELSEWHERE = frozenset(
    {
        _RANK,
        _ALPHA,
        _DROPOUT,
        _TRANSPOSED,
        "lora_target_modules",
        "lora_target_linear",
        "lora_target_parameters",
        "lora_modules_to_save",
    }
)
"""Keys of LoRA that many files have: beside a method that does not take them, they are told of."""


def idle_keys(adapter: str | None, given: frozenset[str]) -> list[str]:
    """Of the keys given, those that change nothing for this method."""
    if adapter is None:
        return []
    return sorted((given & IDLE_ELSEWHERE) - METHODS[adapter].keys)


def can_recompute(adapter: str | None) -> bool:
    """Whether layers under this method can be computed again in the backward pass."""
    return adapter is None or METHODS[adapter].recomputes


def in_four_bits(adapter: str | None) -> str | None:
    """What trains on a 4-bit base in its place, itself if it can; None: it is not trained there."""
    if adapter is None or adapter in ("lora", "qlora"):
        return "qlora"
    return None if "load_in_4bit" in METHODS[adapter].refuses else adapter


def methods_taking(key: str) -> list[str]:
    """The values of `adapter:` beside which a key means something."""
    return [name for name, method in METHODS.items() if key in method.keys]

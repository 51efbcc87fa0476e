"""Base + quantization + adapter -> one ``LoadedModel``; attention; the one door for patches.

What is named here is loaded when it is first used, so that ``check_base`` costs no tensors:
``ft validate`` looks at a base model's folder without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft.model.attention import (
        Attention,
        AttentionTraits,
        choose_attention,
        read_attention_traits,
    )
    from ft.model.base import load_base, load_config
    from ft.model.base_check import check_adapter_folder, check_base
    from ft.model.build import BaseForm, build_model, load_trained, load_untuned
    from ft.model.hardware import Hardware, available_memory_bytes, probe_hardware
    from ft.model.label_head import Head
    from ft.model.loaded import LoadedModel
    from ft.model.patches import apply_patches
    from ft.model.precision import Precision, choose_precision
    from ft.model.tokenizer import LoadedTokenizer, load_tokenizer

__all__ = [
    "Attention",
    "AttentionTraits",
    "BaseForm",
    "Hardware",
    "Head",
    "LoadedModel",
    "LoadedTokenizer",
    "Precision",
    "apply_patches",
    "available_memory_bytes",
    "build_model",
    "check_adapter_folder",
    "check_base",
    "choose_attention",
    "choose_precision",
    "load_base",
    "load_config",
    "load_tokenizer",
    "load_trained",
    "load_untuned",
    "probe_hardware",
    "read_attention_traits",
]

_ROOM_OF = {
    "Attention": "attention",
    "AttentionTraits": "attention",
    "choose_attention": "attention",
    "read_attention_traits": "attention",
    "load_base": "base",
    "load_config": "base",
    "check_adapter_folder": "base_check",
    "check_base": "base_check",
    "BaseForm": "build",
    "build_model": "build",
    "load_trained": "build",
    "load_untuned": "build",
    "Hardware": "hardware",
    "available_memory_bytes": "hardware",
    "Head": "label_head",
    "probe_hardware": "hardware",
    "LoadedModel": "loaded",
    "apply_patches": "patches",
    "Precision": "precision",
    "choose_precision": "precision",
    "LoadedTokenizer": "tokenizer",
    "load_tokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)

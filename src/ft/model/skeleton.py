"""A model's shape without its weights: the modules that a run would train, on the meta device.

Built by the same functions as the model itself (the adapter's targets, added rows of embeddings),
so what is counted on it is what the run will have. Nothing is read but the config, nothing is
allocated. A quantized base stands here in plain weights; which layers would be held in few bits is
said beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from ft.model.adapter import Origin, add_adapter
from ft.model.base import fit_vocabulary, load_config
from ft.model.base_check import read_adapter_config
from ft.model.checkpoint_format import bits_held, quantization_of
from ft.model.execution import decoder_layers
from ft.model.freeze import freeze_all_but
from ft.model.frozen import shorten_linears
from ft.model.hub import explained
from ft.model.precision import Precision
from ft.runtime.errors import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec


@dataclass(frozen=True)
class Skeleton:
    """The modules of a run, without values."""

    module: Any
    """transformers' model, or peft's around it; every parameter is a meta tensor."""
    layers: list[Any]
    """Its decoder layers, in order; none if it is built in another way."""
    quantized: dict[str, int]
    """Bits of the frozen weights that are held in few: parameter name -> 4 or 8."""


def build_skeleton(
    model: ModelSpec,
    adapter: AdapterSpec,
    precision: Precision,
    *,
    attention: str,
    num_tokens: int | None = None,
) -> Skeleton:
    """The modules that ``build_model`` would give, on the meta device.

    Args:
        model: The base; only its config is read.
        adapter: What is put on it; no adapter means that everything is trained.
        precision: From ``choose_precision``.
        attention: What transformers is told.
        num_tokens: Size of the tokenizer's vocabulary, if rows may have to be added for it.

    Raises:
        UserError: the config cannot be read, or the specs do not fit it.
    """
    config = load_config(model.model_copy(update={"reinit_weights": True}))  # reads no weights
    with torch.device("meta"), explained(model.base_model, "base_model"):
        base = AutoModelForCausalLM.from_config(
            config,
            dtype=precision.weights_dtype,
            attn_implementation=attention,
            trust_remote_code=False,
        )
    added = 0
    if num_tokens is not None:
        with torch.device("meta"):
            added = fit_vocabulary(base, num_tokens)
    is_4bit = model.load_in_4bit or adapter.adapter == "qlora"
    bits = 8 if model.load_in_8bit else 4 if is_4bit else bits_held(quantization_of(config))
    quantized = _quantized(base, bits, has_experts=model.quantize_moe_experts)
    trained: Any = base
    if adapter.adapter is not None:
        with torch.device("meta"):
            trained, _ = add_adapter(
                base,
                _anew(adapter),
                origin=Origin(model.base_model),
                seed=0,
                dtype=precision.trainable_dtype,
                has_new_tokens=bool(added),
            )
    elif adapter.unfrozen_parameters:
        freeze_all_but(base, adapter.unfrozen_parameters)
    shorten_linears(trained)
    trained.train()
    names = {id(parameter): name for name, parameter in trained.named_parameters()}
    held = {names[id(parameter)]: bits for parameter in quantized if id(parameter) in names}
    return Skeleton(trained, decoder_layers(trained), held)


def count_parameters(model: ModelSpec) -> int | None:
    """How many parameters the base has; None if it can't be built from its config alone.

    Args:
        model: The base; only its config is read.
    """
    try:
        config = load_config(model.model_copy(update={"reinit_weights": True}))
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (UserError, RuntimeError, ValueError, TypeError, AttributeError, LookupError):
        return None
    return sum(int(parameter.numel()) for parameter in base.parameters())


def _quantized(base: Any, bits: int, *, has_experts: bool) -> list[Any]:
    """What is held in few bits: every linear layer but the output head."""
    if not bits:
        return []
    head = base.get_output_embeddings()
    layers = [
        layer
        for layer in base.modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head
    ]
    found: list[Any] = [layer.weight for layer in layers]
    if has_experts:
        found += [p for n, p in base.named_parameters() if p.ndim == 3 and ".experts." in n]
    return found


def _anew(adapter: AdapterSpec) -> AdapterSpec:
    """The same adapter without its folder, or first weights that need the base's values."""
    update: dict[str, Any] = {"lora_model_dir": None, "peft_init_lora_weights": True}
    if not adapter.lora_model_dir:
        return adapter.model_copy(update=update)
    try:
        config = read_adapter_config(Path(adapter.lora_model_dir).expanduser())
    except UserError:
        return adapter.model_copy(update=update)
    targets = config.get("target_modules")
    update["lora_r"] = int(config.get("r") or adapter.lora_r)
    if isinstance(targets, list):
        update |= {"lora_target_modules": tuple(targets), "lora_target_linear": False}
    return adapter.model_copy(update=update)

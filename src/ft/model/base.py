"""The base model: the only place where weights are read from a folder or the hub.

load_config    what the model is, without its weights
load_base      the weights, quantized if asked for, on this process's device
fit_vocabulary rows for tokens that the base does not have
fold_experts   fused experts in few bits, once the adapter is on them
dequantize     a quantized base as plain linear layers: the function that an adapter was trained on
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    Mxfp4Config,
)

from ft.kernels.packed import plain_weight
from ft.model import patches
from ft.model.attention import read_attention_traits
from ft.model.base_check import check_base, is_local
from ft.model.checkpoint_format import (
    ask_for_plain_weights,
    is_held_in_few_bits,
    quantization_of,
    require_readable,
)
from ft.model.experts import dequantize_experts, quantize_experts
from ft.model.grouped import GroupedLinear, ask_for_plain_layers, take_over
from ft.model.hardware import Hardware
from ft.model.hub import explained
from ft.model.label_head import (
    Head,
    head_modules,
    head_modules_of,
    is_in_head,
    settle_head,
    without_load_report,
)
from ft.model.llama4 import linearized_experts
from ft.model.overrides import apply_overrides
from ft.model.precision import Precision
from ft.model.random_base import draw_base
from ft.model.varlen import register_varlen
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import ModelSpec

# isort: split
import bitsandbytes as bnb  # after patches, which silences its import


@dataclass(frozen=True)
class BaseModel:
    """A base model as loaded."""

    model: Any
    """transformers' PreTrainedModel, frozen or not, in evaluation mode."""
    revision: str | None
    """The hub's commit; None for a local folder."""
    notes: tuple[str, ...] = ()


def load_config(spec: ModelSpec) -> Any:
    """The transformers config of the base model.

    Raises:
        UserError: it cannot be read, does not have what the spec overrides, or says that its
            weights are in a format that cannot be read here; the message says what to do.
    """
    patches.apply_patches()
    check_base(spec)
    with explained(spec.base_model, "base_model", spec.revision_of_model):
        config = AutoConfig.from_pretrained(
            _path(spec.base_model),
            revision=spec.revision_of_model or "main",
            trust_remote_code=False,
        )
    require_readable(quantization_of(config), spec)
    apply_overrides(config, spec.overrides_of_model_config)
    return config


def load_base(
    spec: ModelSpec,
    precision: Precision,
    *,
    hardware: Hardware,
    attention: str = "sdpa",
    is_quantized: bool = True,
    draws_on_device: bool = False,
    head: Head | None = None,
) -> BaseModel:
    """The base model on this process's device.

    Args:
        spec: What to load, and in how many bits.
        precision: Formats of weights and products.
        hardware: Where it goes; on MPS, bits are not reduced.
        attention: What transformers is told.
        is_quantized: False loads plain weights, whatever the spec says.
        draws_on_device: Random weights are drawn where they will live, which takes seconds for a
            large model; another kind of device draws others.
        head: What it tells of a text; None for a model that writes.

    Fused experts come in plain weights; ``fold_experts`` puts them in few bits.
    With ``spec.random_init_seed`` or ``spec.reinit_weights`` none are read: they are drawn, the
    same ones every time.

    Raises:
        UserError: the weights cannot be read or are incomplete, or are those of another head.
    """
    config = load_config(spec)
    names_before = dict(getattr(config, "id2label", None) or {})
    kind: Any = AutoModelForCausalLM
    if head is not None:
        kind = AutoModelForSequenceClassification
        head.describe(config)
    if attention == "sdpa" and not read_attention_traits(config).supports_sdpa:
        attention = "eager"
    register_varlen()
    quantization: BitsAndBytesConfig | Mxfp4Config | None = None
    if spec.model_quantization_config:
        quantization = Mxfp4Config(dequantize=True)
    notes: list[str] = []
    if is_quantized and (spec.load_in_4bit or spec.load_in_8bit):
        kept_whole = None if head is None else head_modules_of(config)
        quantization, notes = _quantization(spec, precision, hardware, kept_whole)
    if spec.random_init_seed is not None or spec.reinit_weights:
        config.__dict__.pop("quantization_config", None)  # of weights that are not read
        device = local_device(hardware)
        model = draw_base(
            partial(
                kind.from_config,
                config,
                dtype=precision.weights_dtype,
                attn_implementation=attention,
                trust_remote_code=False,
            ),
            seed=spec.random_init_seed or 0,
            dtype=precision.weights_dtype,
            quantization=quantization if isinstance(quantization, BitsAndBytesConfig) else None,
            draws_on=device if draws_on_device else torch.device("cpu"),
            device=device,
        )
        return BaseModel(model, None, (*notes, "random weights to begin with"))
    is_held = is_held_in_few_bits(quantization_of(config))
    is_made_plain = ask_for_plain_weights(config)
    with explained(spec.base_model, "base_model"):
        is_packed = ask_for_plain_layers(config)
    linearized = linearized_experts(config) if spec.llama4_linearized_experts else nullcontext()
    is_talkative = head is not None or is_packed  # of other formats than are used then
    quiet = without_load_report() if is_talkative else nullcontext()
    with explained(spec.base_model, "base_model", spec.revision_of_model), linearized, quiet:
        model, loading = kind.from_pretrained(
            _path(spec.base_model),
            config=config,
            revision=spec.revision_of_model or "main",
            dtype=precision.weights_dtype,
            attn_implementation=attention,
            quantization_config=None if is_held else quantization,  # it says itself how
            device_map=_device_map(hardware, is_quantized=is_held or quantization is not None),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=head is not None,  # settled below, by the name of each weight
        )
    _require_all_weights(spec, loading, head_modules(model))
    if is_packed:
        take_over(model, precision.weights_dtype)
    if is_made_plain:
        _forget_few_bits(model)
    if head is not None:
        where = f"base_model: {spec.base_model}"
        notes += settle_head(model, head, loading, names_before, where)
    return BaseModel(model, _commit(spec, config), tuple(notes))


def _commit(spec: ModelSpec, config: Any) -> str | None:
    """The commit that was loaded: transformers told it until 5.23, later ones take it as asked."""
    if is_local(spec.base_model):
        return None
    asked = spec.revision_of_model or ""
    is_commit = re.fullmatch(r"[0-9a-f]{40}", asked) is not None
    return getattr(config, "_commit_hash", None) or (asked if is_commit else None)


def fold_experts(model: Any, spec: ModelSpec) -> list[str]:
    """Puts fused experts in few bits if the spec asks for it; in place, and after the adapter.

    Returns:
        Notes for the user.
    """
    if not spec.quantize_moe_experts or not getattr(model, "is_quantized", False):
        return []
    num_quantized = quantize_experts(model, bits=4 if spec.load_in_4bit else 8)
    return [] if num_quantized else ["quantize_moe_experts: the base has no fused experts"]


def local_device(hardware: Hardware) -> torch.device:
    """The device of this process; among several cards the one that accelerate gave it."""
    if hardware.kind == "cuda":
        device = PartialState().device
        assert isinstance(device, torch.device)
        return device
    return torch.device(hardware.kind)


def _device_map(hardware: Hardware, *, is_quantized: bool) -> dict[str, torch.device] | None:
    """The whole model on one device; None where weights are read onto the CPU anyway."""
    if hardware.kind == "cpu" and not is_quantized:
        return None
    return {"": local_device(hardware)}


def fit_vocabulary(model: Any, num_tokens: int) -> int:
    """Adds embedding rows until every token has one; a new row is the mean of the old ones.

    Deterministic, and without a random draw. Spare rows of the base are kept.

    Returns:
        How many rows were added.
    """
    num_rows: int = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= num_rows:
        return 0
    device = model.get_input_embeddings().weight.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None:
            for weight in (layer.weight, getattr(layer, "bias", None)):
                _fill_with_mean(weight, num_rows)
    return num_tokens - num_rows


@torch.no_grad()
def _fill_with_mean(weight: Tensor | None, num_old: int) -> None:
    if weight is not None:
        weight[num_old:] = weight[:num_old].float().mean(dim=0).to(weight.dtype)


@torch.no_grad()
def dequantize(model: Any, dtype: torch.dtype) -> Any:
    """Replaces layers in few bits by plain ones that hold what they stand for, in place.

    Args:
        model: A quantized model without an adapter.
        dtype: Of the plain weights; in the compute format this loses nothing that training saw.

    Returns:
        The same model, no longer marked as quantized.
    """
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt, GroupedLinear)
    layers: list[tuple[str, Any]] = [
        named for named in model.named_modules() if isinstance(named[1], kinds)
    ]
    for name, layer in layers:
        weight = _dequantized_weight(layer).to(dtype)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        model.set_submodule(name, plain)
    dequantize_experts(model, dtype)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        setattr(model, flag, False)
    model.hf_quantizer = None
    model.__dict__.pop("hf_device_map", None)
    _forget_few_bits(model)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _forget_few_bits(model: Any) -> None:
    """Transformers would save the weights as it read them, by ways that cannot be gone backwards.

    Those that can (a mixture's experts) stay: they say how the model's own files look.
    """

    def goes_backwards(conversion: Any) -> bool:
        steps = getattr(conversion, "operations", ())
        if any(type(step).__module__.endswith("finegrained_fp8") for step in steps):
            return False
        try:
            conversion.reverse_transform()
        except NotImplementedError:
            return False
        return True

    if (ways := getattr(model, "_weight_conversions", None)) is not None:
        model._weight_conversions = [way for way in ways if goes_backwards(way)]


def _dequantized_weight(layer: Any) -> Tensor:
    if isinstance(layer, GroupedLinear):
        return plain_weight(layer.pack())
    if isinstance(layer, bnb.nn.Linear4bit):
        weight: Tensor = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return weight
    scales = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    weight = bnb.functional.int8_vectorwise_dequant(layer.weight.data, scales)
    return weight


def _quantization(
    spec: ModelSpec, precision: Precision, hardware: Hardware, kept_whole: list[str] | None
) -> tuple[BitsAndBytesConfig | None, list[str]]:
    """Of 4 or 8 bits, but for the modules named; None leaves the choice to transformers."""
    bits = 4 if spec.load_in_4bit else 8
    if hardware.kind == "mps":
        return None, [f"{bits}-bit weights do not run on MPS: holding them in {precision.weights}"]
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept_whole), []
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=kept_whole,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.compute_dtype,
        bnb_4bit_quant_storage=precision.weights_dtype,  # so that FSDP can flatten it with the rest
    ), []


def _require_all_weights(spec: ModelSpec, loading: dict[str, Any], head: Sequence[str]) -> None:
    """A weight that the folder lacks would be drawn at random, and training would go on with it.

    Those of the head's modules are not meant.
    """
    missing = sorted(loading.get("missing_keys", ()))
    mismatched = sorted(str(entry[0]) for entry in loading.get("mismatched_keys", ()))
    lacking = [name for name in missing + mismatched if not is_in_head(name, head)]
    if lacking:
        aim = "one that generates text" if not head else "one of the kind that config.json names"
        raise UserError(
            Problem(
                f"lacks {len(lacking)} weights, or has them in another shape: {lacking[0]}",
                f"base_model: {spec.base_model}",
                fix=f"check that the folder holds the whole model, and {aim}",
            )
        )


def _path(name: str) -> str:
    return str(Path(name).expanduser()) if name.startswith("~") else name

"""The adapter: LoRA on the layers that were asked for, new or gone on from a folder.

The base is frozen. What is trained is fp32 wherever autocast runs; embeddings of new tokens are
trained and saved whole, and where the base ties input and output embeddings, they stay one tensor.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes
from ft.model.base_check import ADAPTER_WEIGHTS, check_adapter_folder
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import AdapterSpec

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model

_PATTERN = re.compile(r"[][\\()|*+?^$]")
"""What tells a regular expression from a name."""


@dataclass(frozen=True)
class Origin:
    """Where the base comes from, as adapter_config.json records it."""

    base_model: str
    revision: str | None = None


def add_adapter(
    model: Any,
    spec: AdapterSpec,
    *,
    origin: Origin,
    seed: int,
    dtype: torch.dtype,
    has_new_tokens: bool,
) -> tuple[PeftModel, list[str]]:
    """Freezes the base and puts a trainable adapter on it.

    Args:
        model: The base model.
        spec: What to add, or where to go on from.
        origin: Recorded in the adapter's config.
        seed: Of the adapter's first weights; the same seed gives the same bits.
        dtype: Of everything that is trained.
        has_new_tokens: Whether the embeddings have rows that were never trained.

    Returns:
        The model with its adapter, and notes for the user.

    Raises:
        UserError: a module is named that the model does not have; the folder to go on from is no
            adapter, or does not fit.
    """
    if spec.lora_model_dir:
        peft_model, notes = _resume_adapter(model, spec, has_new_tokens=has_new_tokens)
    else:
        config, notes = _lora_config(model, spec, has_new_tokens=has_new_tokens)
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            peft_model = get_peft_model(model, config)
    _require_trainable(peft_model)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)  # in place: tied weights stay tied
    active = peft_model.active_peft_config
    active.base_model_name_or_path = origin.base_model
    active.revision = origin.revision
    return peft_model, notes


def load_adapter(model: Any, folder: Path, *, is_trainable: bool = False) -> PeftModel:
    """The base model with the adapter of a folder.

    Raises:
        UserError: the folder holds no adapter in safetensors, a damaged one, or one for another
            model.
    """
    check_adapter_folder(str(folder))
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)
    except SafetensorError as error:
        raise UserError(
            Problem(
                f"is cut short or damaged: {error}",
                str(folder / ADAPTER_WEIGHTS),
                fix="copy the adapter again, or train it again",
            )
        ) from error
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            Problem(
                f"does not fit the base model: {first_line}",
                str(folder),
                fix="use the base model, and the tokens, that the adapter was trained with",
            )
        ) from error


def _resume_adapter(
    model: Any, spec: AdapterSpec, *, has_new_tokens: bool
) -> tuple[PeftModel, list[str]]:
    folder = Path(spec.lora_model_dir or "").expanduser()
    peft_model = load_adapter(model, folder, is_trainable=True)
    config = peft_model.active_peft_config
    if has_new_tokens and not config.modules_to_save:
        raise UserError(
            Problem(
                "the adapter to go on from does not train embeddings, so the new tokens would "
                "never be learned",
                str(folder),
                fix="start a new adapter, or leave the new tokens out",
            )
        )
    rank, alpha = getattr(config, "r", None), getattr(config, "lora_alpha", None)
    notes = [f"going on from the adapter in {folder}"]
    if rank is not None and (rank, alpha) != (spec.lora_r, spec.lora_alpha):
        notes.append(
            f"its own lora_r {rank} and lora_alpha {alpha} hold, not {spec.lora_r} and "
            f"{spec.lora_alpha:g}"
        )
    return peft_model, notes


def _lora_config(
    model: Any, spec: AdapterSpec, *, has_new_tokens: bool
) -> tuple[LoraConfig, list[str]]:
    linear = linear_layer_names(model)
    targets, notes = _targets(model, spec, linear)
    saved = _modules_to_save(model, spec, has_new_tokens=has_new_tokens)
    is_tied = _has_tied_embeddings(model)
    embedding = _embedding_names(model)[0]
    is_conv1d = any(isinstance(layer, Conv1D) for layer in model.modules())
    config = LoraConfig(
        r=spec.lora_r,
        lora_alpha=spec.lora_alpha,  # peft annotates int, computes alpha / r
        lora_dropout=spec.lora_dropout,
        target_modules=sorted(targets),
        modules_to_save=sorted(saved) or None,
        fan_in_fan_out=is_conv1d if spec.lora_fan_in_fan_out is None else spec.lora_fan_in_fan_out,
        ensure_weight_tying=is_tied and embedding in saved,
        use_rslora=spec.peft_use_rslora,
        target_parameters=_target_parameters(model, spec) or None,
        task_type="CAUSAL_LM",
    )
    return config, notes


def _targets(model: Any, spec: AdapterSpec, linear: set[str]) -> tuple[set[str], list[str]]:
    paths = [name for name, layer in model.named_modules() if _is_adaptable(layer)]
    named = {name for target in spec.lora_target_modules for name in _named_by(target, paths)}
    unknown = sorted(t for t in named if not any(_matches(t, path) for path in paths))
    _refuse_unknown("lora_target_modules", unknown, linear)
    if spec.lora_target_linear:
        return named | linear, []
    if named or spec.lora_target_parameters:
        return named, []
    return linear, [
        f"no target named: an adapter on every linear layer ({', '.join(sorted(linear))})"
    ]


def _target_parameters(model: Any, spec: AdapterSpec) -> list[str]:
    """The tensors that get an adapter themselves: those of fused experts, [num_experts, *, *]."""
    linear = [path for path, layer in model.named_modules() if _is_adaptable(layer)]
    paths = [path for path, _ in model.named_parameters() if path.rpartition(".")[0] not in linear]
    targets = sorted(set(spec.lora_target_parameters))
    unknown = [name for name in targets if not any(_matches(name, path) for path in paths)]
    _refuse_unknown("lora_target_parameters", unknown, {_last_two(path) for path in paths})
    return targets


def linear_layer_names(model: Any) -> set[str]:
    """Last names of the model's linear layers, without the output head: ``{"q_proj", ...}``."""
    head = model.get_output_embeddings()
    names = {
        path
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and layer is not head and not _gives_more(layer)
    }
    return {_last(path) if not _last(path).isdigit() else path for path in names}


def _gives_more(layer: nn.Module) -> bool:
    """Whether a model's own kind of linear layer gives more than a product: Llama 4's router."""
    is_own = type(layer).__module__.startswith("transformers.models.")
    return is_own and "forward" in vars(type(layer))


def _modules_to_save(model: Any, spec: AdapterSpec, *, has_new_tokens: bool) -> set[str]:
    saved = set(spec.lora_modules_to_save)
    paths = [path for path, _ in model.named_modules() if path]
    unknown = sorted(name for name in saved if not any(_matches(name, path) for path in paths))
    _refuse_unknown("lora_modules_to_save", unknown, {_last(path) for path in paths})
    quantized = sorted(
        name
        for name in saved
        for path, layer in model.named_modules()
        if _matches(name, path) and hasattr(getattr(layer, "weight", None), "quant_state")
    )
    if quantized:
        raise UserError(
            Problem(
                f"{quantized[0]} is held in few bits and cannot be trained whole",
                "lora_modules_to_save",
                fix="give it an adapter (lora_target_modules), or load the base in full",
            )
        )
    if has_new_tokens:
        saved |= set(_embedding_names(model))
    if _has_tied_embeddings(model):
        embedding, *heads = _embedding_names(model)
        if saved & {embedding, *heads}:
            saved = (saved - set(heads)) | {embedding}  # peft ties the head to it
    return saved


def _embedding_names(model: Any) -> list[str]:
    """Last names of the input embedding and, where there is one, the output head."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    paths = {id(layer): path for path, layer in model.named_modules()}
    return [_last(paths[id(layer)]) for layer in layers if layer is not None]


def _has_tied_embeddings(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _require_trainable(model: Any) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the adapter has nothing to train: name its layers in lora_target_modules")


_KINDS = {"lora_target_parameters": "tensor beside its linear layers"}


def _refuse_unknown(key: str, unknown: list[str], possible: set[str]) -> None:
    problems = []
    for name in unknown:
        nearest_first = sorted(sorted(possible), key=lambda other: -_likeness(name, other))
        near = difflib.get_close_matches(name, nearest_first, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        problems.append(
            Problem(
                f"the model has no {_KINDS.get(key, 'module')} named {name!r}",
                key,
                fix=f"{hint}it has {', '.join(nearest_first)}",
            )
        )
    if problems:
        raise UserError(*problems)


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()


def _is_adaptable(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Embedding | Conv1D)


def _named_by(target: str, paths: list[str]) -> set[str]:
    """The modules whose whole path a pattern matches; a name stands for itself."""
    if not _PATTERN.search(target):
        return {target}
    try:
        return {path for path in paths if re.fullmatch(target, path)} or {target}
    except re.error as error:
        fix = "write names, or a regular expression of whole paths"
        raise UserError(Problem(f"{target!r}: {error}", "lora_target_modules", fix=fix)) from error


def _matches(name: str, path: str) -> bool:
    """Whether peft would take the module at ``path`` for ``name``."""
    return path == name or path.endswith(f".{name}")


def _last_two(path: str) -> str:
    return ".".join(path.split(".")[-2:])


def _last(path: str) -> str:
    return path.rpartition(".")[2]

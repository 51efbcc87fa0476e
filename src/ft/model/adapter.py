"""The adapter: what the method makes of the keys (ft.model.methods), or gone on from a folder.

The base is frozen. What is trained is fp32 wherever autocast runs; embeddings of new tokens are
trained and saved whole, and where the base ties input and output embeddings, they stay one tensor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes
from ft.model.base_check import ADAPTER_WEIGHTS, check_adapter_folder
from ft.model.label_head import keep_head
from ft.model.methods import METHODS, Request
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import AdapterSpec

# isort: split
from peft import PeftModel, get_peft_model

_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)
"""What peft raises where a model or a value is not for a method."""


@dataclass(frozen=True)
class Origin:
    """Where the base comes from."""

    base_model: str
    """adapter_config.json records it, and the revision."""
    revision: str | None = None
    tokenizer: str | None = None
    """Where its tokenizer is, if it is not there."""
    load_plain: Callable[[], Any] | None = None
    """Loads it a second time, in plain weights on the host."""


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
        peft_model, notes = _new_adapter(model, spec, origin, seed, has_new_tokens)
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


def _new_adapter(
    model: Any, spec: AdapterSpec, origin: Origin, seed: int, has_new_tokens: bool
) -> tuple[PeftModel, list[str]]:
    assert spec.adapter is not None
    method = METHODS[spec.adapter]
    request = Request(model, spec, origin.tokenizer or origin.base_model, has_new_tokens)
    config, notes = method.config(request)
    keep_head(config, model)
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        with warnings.catch_warnings(record=True) as told:
            try:
                peft_model = get_peft_model(model, config)
            except _REFUSALS as error:
                _refuse(spec.adapter, error)
    notes += dict.fromkeys(f"{spec.adapter}: {each.message}" for each in told)
    method.begin(peft_model, request, origin.load_plain or _no_plain_base)
    return peft_model, notes


def _refuse(adapter: str, error: Exception) -> NoReturn:
    """What peft says of a method and a model that do not go together."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    raise UserError(
        Problem(
            f"adapter: {adapter} cannot be put on this model: {first_line}",
            fix="name other layers in lora_target_modules, or use adapter: lora",
        )
    ) from error


def _no_plain_base() -> Any:
    raise ValueError("the origin of the base says no way to load it again")


def _resume_adapter(
    model: Any, spec: AdapterSpec, *, has_new_tokens: bool
) -> tuple[PeftModel, list[str]]:
    folder = Path(spec.lora_model_dir or "").expanduser()
    peft_model = load_adapter(model, folder, is_trainable=True)
    config = peft_model.active_peft_config
    _require_method(config, spec, folder)
    if has_new_tokens and not getattr(config, "modules_to_save", None):
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
    if alpha is not None and (rank, alpha) != (spec.lora_r, spec.lora_alpha):
        notes.append(
            f"its own lora_r {rank} and lora_alpha {alpha} hold, not {spec.lora_r} and "
            f"{spec.lora_alpha:g}"
        )
    return peft_model, notes


def _require_method(config: Any, spec: AdapterSpec, folder: Path) -> None:
    """An adapter goes on as what it is."""
    found = str(config.peft_type.value).lower()
    known = {"lora": ("lora", "qlora"), "adaption_prompt": ("llama-adapter",)}
    if spec.adapter not in known.get(found, (found,)):
        raise UserError(
            Problem(
                f"is an adapter of another method: {found}",
                str(folder),
                fix=f"set adapter: {known.get(found, (found,))[0]}",
            )
        )


def _require_trainable(model: Any) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("the adapter has nothing to train: name its layers in lora_target_modules")

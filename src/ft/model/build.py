"""ModelSpec + PrecisionSpec + AdapterSpec -> one ``LoadedModel``, for training or for use."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch

from ft.model.adapter import Origin, add_adapter, load_adapter
from ft.model.attention import Attention, choose_attention, read_attention_traits
from ft.model.base import (
    BaseModel,
    dequantize,
    fit_vocabulary,
    fold_experts,
    load_base,
    load_config,
)
from ft.model.base_check import ADAPTER_CONFIG, read_adapter_config
from ft.model.checkpoint_format import quantization_of, require_format
from ft.model.execution import Execution
from ft.model.freeze import freeze_all_but
from ft.model.frozen import cast_factors_together, shorten_linears
from ft.model.hardware import Hardware
from ft.model.head import fuse_head
from ft.model.label_head import Head, head_modules, require_positions
from ft.model.loaded import LoadedModel
from ft.model.precision import Precision
from ft.model.tokenizer import LoadedTokenizer, load_saved_tokenizer, load_tokenizer
from ft.runtime.errors import Problem, UserError
from ft.spec.methods import METHODS
from ft.spec.runspec import AdapterSpec, ModelSpec

BaseForm = Literal["trained", "dequantized", "plain"]
"""A finished run's base: as it was trained on; that in plain weights; the unquantized original."""


def build_model(  # noqa: PLR0913  # the one door: each argument is a decision made outside
    model: ModelSpec,
    adapter: AdapterSpec,
    precision: Precision,
    attention: Attention | None,
    tokenizer: LoadedTokenizer,
    *,
    hardware: Hardware,
    seed: int,
    gradient_checkpointing: bool = False,
    sequence_len: int | None = None,
    draws_on_device: bool = False,
    head: Head | None = None,
) -> LoadedModel:
    """The model that a run trains, in training mode.

    Args:
        model: The base.
        adapter: What is put on it; no adapter means that everything is trained.
        precision: From ``choose_precision``.
        attention: From ``choose_attention``; None chooses for ``model.attn_implementation``.
        tokenizer: From ``load_tokenizer``; the base gets rows for its tokens.
        hardware: From ``probe_hardware``.
        seed: Of the adapter's first weights.
        gradient_checkpointing: Recompute every layer in the backward pass.
        sequence_len: Tokens of the longest record that may come; noted if the base is shorter.
        draws_on_device: As of ``load_base``.
        head: What it tells of a text; None for a model that writes.

    Raises:
        UserError: the base cannot be read, or the specs do not fit it.
    """
    model = _with_bits_of(model, adapter)
    require_format(quantization_of(load_config(model)), model, adapter)
    attention = attention or _choose_attention(model, adapter, precision, hardware, head)
    torch.set_float32_matmul_precision("high" if precision.tf32 else "highest")
    base = load_base(
        model,
        precision,
        hardware=hardware,
        attention=attention.implementation,
        draws_on_device=draws_on_device,
        head=head,
    )
    if head is not None:
        require_positions(base.model, sequence_len, f"base_model: {model.base_model}")
    notes = [*precision.notes, *tokenizer.notes, *base.notes]
    notes += _length_notes(base.model.config, sequence_len)
    num_added = fit_vocabulary(base.model, len(tokenizer.tokenizer))
    if num_added > len(tokenizer.new_token_ids):
        notes.append(f"the embeddings had no row for {num_added} tokens: added, and trained")
    settle_generation(base.model, tokenizer.tokenizer)
    trained: Any = base.model
    if adapter.adapter is not None:
        trained, adapter_notes = add_adapter(
            base.model,
            adapter,
            origin=_origin(model, base, precision),
            seed=seed,
            dtype=precision.trainable_dtype,
            has_new_tokens=bool(num_added or tokenizer.new_token_ids),
        )
        notes += adapter_notes
        notes += fold_experts(base.model, model)
    elif adapter.unfrozen_parameters:
        freeze_all_but(base.model, adapter.unfrozen_parameters)
    trained.train()
    loaded = LoadedModel(trained, tokenizer, precision, attention, hardware, base.revision, notes)
    prepare_execution(loaded)
    if gradient_checkpointing:
        recompute_every_layer(loaded)
    return loaded


def prepare_execution(loaded: LoadedModel) -> None:
    """Puts a model that is to be trained on the short way: in its linears, its layers, its head."""
    shorten_linears(loaded.model)
    cast_factors_together(loaded.model, loaded.precision.compute_dtype)
    execution = Execution(loaded.model, loaded.precision.compute_dtype)
    loaded.execution = execution if execution.layers else None
    with loaded.autocast():
        loaded.loss_head = fuse_head(loaded.model)


def load_trained(
    run_folder: Path,
    model: ModelSpec,
    adapter: AdapterSpec,
    precision: Precision,
    *,
    hardware: Hardware,
    form: BaseForm = "trained",
    head: Head | None = None,
) -> LoadedModel:
    """A finished run's model, frozen, in evaluation mode, with sdpa attention.

    Args:
        run_folder: Holds the adapter, or the whole model, and the tokenizer.
        model: The base, as the run named it; the revision that the adapter records is used.
        adapter: As the run had it.
        precision: As the run had it.
        hardware: What it will run on.
        form: Which form of the base the adapter is put on.
        head: As the run had it.

    Raises:
        UserError: the folder holds no trained model, or one that does not fit.
    """
    tokenizer = _tokenizer_of_run(run_folder, model)
    has_adapter = (run_folder / ADAPTER_CONFIG).is_file()
    base = _base_of_run(run_folder, _with_bits_of(model, adapter), precision, hardware, form, head)
    trained: Any = base.model
    if has_adapter:
        fit_vocabulary(base.model, len(tokenizer.tokenizer))
        trained = load_adapter(base.model, run_folder)
        if form == "trained":
            fold_experts(base.model, _with_bits_of(model, adapter))
    return _for_inference(base, trained, tokenizer, precision, hardware)


def load_untuned(
    run_folder: Path,
    model: ModelSpec,
    precision: Precision,
    *,
    hardware: Hardware,
    head: Head | None = None,
) -> LoadedModel:
    """The base that a run of all parameters began with, with the run's tokenizer, to ask it.

    Args:
        run_folder: Holds the tokenizer.
        model: The base, as the run named it.
        precision: As the run had it.
        hardware: What it will run on.
        head: As the run had it; untrained here.

    Raises:
        UserError: the base cannot be read.
    """
    tokenizer = _tokenizer_of_run(run_folder, model)
    base = load_base(model, precision, hardware=hardware, head=head)
    fit_vocabulary(base.model, len(tokenizer.tokenizer))
    return _for_inference(base, base.model, tokenizer, precision, hardware)


def _for_inference(
    base: BaseModel,
    asked: Any,
    tokenizer: LoadedTokenizer,
    precision: Precision,
    hardware: Hardware,
) -> LoadedModel:
    settle_generation(base.model, tokenizer.tokenizer)
    asked.requires_grad_(False)
    asked.eval()
    attention = Attention(base.model.config._attn_implementation, False, "for inference")
    notes = list(base.notes)
    return LoadedModel(asked, tokenizer, precision, attention, hardware, base.revision, notes)


def _length_notes(config: Any, sequence_len: int | None) -> list[str]:
    num_positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if sequence_len is None or num_positions is None or sequence_len <= num_positions:
        return []
    return [
        f"sequence_len {sequence_len:,} is more than the {num_positions:,} tokens that the base "
        "was made for (max_position_embeddings): longer records may fail, or be learned badly"
    ]


def recompute_every_layer(loaded: LoadedModel) -> None:
    """Without reentrance, so that a frozen embedding needs no gradient for it."""
    if loaded.execution is not None:
        num_layers = len(loaded.execution.layers)
        loaded.execution.set(recomputed_layers=range(num_layers), kept_layers=())
        return
    model = loaded.model.get_base_model() if loaded.has_adapter else loaded.model
    renamed = getattr(model, "activation_checkpointing_enable", None)  # transformers 5.2x
    (renamed or model.gradient_checkpointing_enable)({"use_reentrant": False})


def settle_generation(model: Any, tokenizer: Any) -> None:
    """Makes generation stop at the tokenizer's end token, and pad with its pad token.

    A classifier only learns which token is padding, to look at the last one before it.
    The base's other end tokens stay. A config that names sampling values without sampling could not
    be saved; it means sampling.
    """
    if head_modules(model):
        for config in (model.config, model.config.get_text_config()):
            config.pad_token_id = tokenizer.pad_token_id
        return
    config = model.generation_config
    ends = config.eos_token_id if config.eos_token_id is not None else []
    ends = ends if isinstance(ends, list) else [ends]
    if tokenizer.eos_token_id not in ends:
        ends = [tokenizer.eos_token_id, *ends]
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    config.pad_token_id = tokenizer.pad_token_id
    neutral = {"temperature": (None, 1.0), "top_p": (None, 1.0), "top_k": (None, 50)}
    if any(getattr(config, name, None) not in values for name, values in neutral.items()):
        config.do_sample = True


def _with_bits_of(model: ModelSpec, adapter: AdapterSpec) -> ModelSpec:
    """The spec with its bits settled: qlora means 4, and no adapter means none."""
    if adapter.adapter == "qlora" and not model.load_in_8bit:
        return model.model_copy(update={"load_in_4bit": True})
    if adapter.adapter is None and (model.load_in_4bit or model.load_in_8bit):
        raise UserError(
            Problem(
                "weights of 4 or 8 bits cannot be trained themselves",
                "load_in_4bit" if model.load_in_4bit else "load_in_8bit",
                fix="set adapter: qlora, or switch it off for full fine-tuning",
            )
        )
    return model


def _origin(model: ModelSpec, base: BaseModel, precision: Precision) -> Origin:
    def load_plain() -> Any:
        host = Hardware("cpu", supports_bf16=True)
        return load_base(model, precision, hardware=host, is_quantized=False).model

    revision = base.revision or model.revision_of_model
    return Origin(model.base_model, revision, model.tokenizer_config, load_plain)


def _choose_attention(
    model: ModelSpec,
    adapter: AdapterSpec,
    precision: Precision,
    hardware: Hardware,
    head: Head | None,
) -> Attention:
    traits = read_attention_traits(load_config(model))
    if head is not None:
        if model.attn_implementation in ("auto", "varlen"):
            plain = "sdpa" if traits.supports_sdpa else "eager"
            return Attention(plain, False, "labels are learned in padded batches")
        traits = dataclasses.replace(traits, supports_flat_batches=False)
    attention = choose_attention(
        model.attn_implementation, hardware, traits, compute=precision.compute
    )
    if attention.is_varlen and adapter.adapter and METHODS[adapter.adapter].needs_padding:
        reason = f"adapter: {adapter.adapter} needs padded rows"
        return Attention("sdpa", is_varlen=False, reason=reason)
    return attention


def _tokenizer_of_run(run_folder: Path, model: ModelSpec) -> LoadedTokenizer:
    if (run_folder / "tokenizer_config.json").is_file():
        return load_saved_tokenizer(run_folder)
    return load_tokenizer(model)


def _base_of_run(
    run_folder: Path,
    model: ModelSpec,
    precision: Precision,
    hardware: Hardware,
    form: BaseForm,
    head: Head | None,
) -> BaseModel:
    if not (run_folder / ADAPTER_CONFIG).is_file():
        if not (run_folder / "config.json").is_file():
            raise UserError(
                Problem(
                    "holds no trained model: neither adapter_config.json nor config.json",
                    str(run_folder),
                    fix="let the run finish: `ft train` with its config resumes it",
                )
            )
        whole = ModelSpec.model_validate({"base_model": str(run_folder.absolute())})
        return load_base(whole, precision, hardware=hardware, head=head)
    recorded = read_adapter_config(run_folder).get("revision")
    if recorded:
        model = model.model_copy(update={"revision_of_model": recorded})
    base = load_base(model, precision, hardware=hardware, is_quantized=form != "plain", head=head)
    if form == "dequantized":
        fold_experts(base.model, model)
        plain = dequantize(base.model, precision.weights_dtype)
        return dataclasses.replace(base, model=plain)
    return base

"""unsloth -> ours: the flags of unsloth-cli.py, and the sections of `unsloth train`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ft.spec.conversion.draft import Draft, No, Row, To
from ft.spec.conversion.hf_arguments import (
    HF_ROWS,
    count_or_none,
    names,
    optimizer,
    schedule,
    whole,
)
from ft.spec.conversion.source_file import SourceFile
from ft.spec.conversion.writer import Setting

SIGNS = (
    "model_name", "max_seq_length", "r", "random_state", "use_gradient_checkpointing",
    "loftq_config", "save_method", "save_gguf", "save_model", "training.load_in_4bit",
    "training.max_seq_length", "training.training_type", "lora.lora_r", "data.format_type",
)  # fmt: skip
PROGRAMS = ("unsloth-cli.py", "unsloth")

_TOOL = "unsloth"
_QUANTIZED = re.compile(r"(-unsloth)?-bnb-4bit$")
_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_SECTIONS = ("data", "training", "lora", "logging")
_PROMPT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "    ### Instruction:\n    {instruction}\n\n    ### Input:\n    %s\n\n    ### Response:\n    "
)
_EXPORT = "type `ft merge RUN` afterwards"
_GGUF = "type `ft export RUN` after `ft merge RUN`"
_UPLOAD = "nothing is uploaded by training"
_LOFTQ = "set peft_init_lora_weights: loftq, with adapter: qlora and load_in_4bit: true"


def _recomputes(value: Any) -> bool:
    return str(value).lower() in ("unsloth", "true", "1", "yes")


def _no_bias(value: Any) -> None:
    if value != "none":
        raise ValueError("adapters have no bias here")


_TRAINING_KEYS = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "weight_decay", "logging_steps", "seed", "output_dir", "num_train_epochs", "report_to",
    "max_grad_norm", "save_total_limit", "adam_beta1", "adam_beta2",
)  # fmt: skip

_SHARED: dict[str, Row] = {
    **{key: HF_ROWS[key] for key in _TRAINING_KEYS},
    "warmup_steps": To("warmup_steps", whole),
    "save_steps": To("save_steps", count_or_none),
    "max_seq_length": To("sequence_len", whole),
    "lora_alpha": To("lora_alpha", float),
    "lora_dropout": To("lora_dropout", float),
    "max_steps": To("max_steps", count_or_none),
    "use_rslora": To("peft_use_rslora"),
    "use_dora": To("peft_use_dora"),
    "packing": To("sample_packing"),
    "load_in_8bit": To("load_in_8bit"),
}

ROWS: dict[str, Row] = {
    **_SHARED,
    "model_name": To("base_model", str),
    "r": To("lora_r", whole),
    "optim": To("optimizer", optimizer),
    "lr_scheduler_type": To("lr_scheduler", schedule),
    "use_gradient_checkpointing": To("gradient_checkpointing", _recomputes),
    "bias": To("adapter", _no_bias),
    "random_state": No("`seed` draws the adapter's first weights as well", unless=(3407,)),
    "loftq_config": No(_LOFTQ),
    "dtype": No("set bf16 or fp16; auto is what the card has", unless=("None", "auto")),
    "save_model": No(_EXPORT),
    "save_method": No(_EXPORT),
    "save_path": No(_EXPORT),
    "save_gguf": No(_GGUF),
    "quantization": No(_GGUF),
    "quantization_method": No(_GGUF),
    "push_model": No(_UPLOAD),
    "push_gguf": No(_UPLOAD),
    "hub_path": No(_UPLOAD),
    "adapter_file": No("adapters are saved in PEFT's own layout"),
}

DEFAULTS: Mapping[str, Any] = {
    "model_name": "unsloth/llama-3-8b",
    "max_seq_length": 2048,
    "r": 16,
    "lora_alpha": 16,
    "use_gradient_checkpointing": "unsloth",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "warmup_steps": 5,
    "max_steps": 400,
    "learning_rate": 2e-4,
    "optim": "adamw_8bit",
    "weight_decay": 0.01,
    "lr_scheduler_type": "linear",
    "seed": 3407,
    "output_dir": "outputs",
}

SECTION_ROWS: dict[str, Row] = {
    **_SHARED,
    "model": To("base_model", str),
    "lora_r": To("lora_r", whole),
    "num_epochs": To("num_epochs", float),
    "batch_size": To("micro_batch_size", whole),
    "random_seed": To("seed", whole),
    "gradient_checkpointing": To("gradient_checkpointing", _recomputes),
    "use_loftq": No(_LOFTQ),
    "vision_all_linear": No("only texts are trained on"),
    "finetune_vision_layers": No("only texts are trained on", unless=(True,)),
    "finetune_language_layers": No("name the layers in lora_target_modules", unless=(True,)),
    "finetune_attention_modules": No("name the layers in lora_target_modules", unless=(True,)),
    "finetune_mlp_modules": No("name the layers in lora_target_modules", unless=(True,)),
    "enable_wandb": To("use_wandb"),
    "wandb_project": To("wandb_project", str),
    "enable_tensorboard": To("use_tensorboard"),
    "tensorboard_dir": No("TensorBoard's files are in trackers/ of the run's folder"),
}

SECTION_DEFAULTS: Mapping[str, Any] = {
    "max_seq_length": 2048,
    "lora_r": 64,
    "lora_alpha": 16,
    "gradient_checkpointing": "unsloth",
    "num_epochs": 3,
    "batch_size": 2,
    "gradient_accumulation_steps": 4,
    "warmup_steps": 5,
    "learning_rate": 2e-4,
    "weight_decay": 0.01,
    "random_seed": 3407,
    "output_dir": "./outputs",
}


def convert_values(source: SourceFile, draft: Draft) -> None:
    """Fills the draft from flags of unsloth-cli.py, a YAML of their names, or one with sections."""
    if any(isinstance(draft.peek(section), Mapping) for section in _SECTIONS):
        _convert_sections(draft)
    else:
        _convert_flags(draft)
    draft.set("bf16", "auto", "unsloth takes fp16 where the card lacks bf16, and so does auto")
    draft.set(
        "excess_length_strategy", "truncate", f"{_TOOL} cuts long records; ft would drop them"
    )


def _convert_flags(draft: Draft) -> None:
    path = draft.take("dataset")
    remark = "" if path else f"{_TOOL}'s default"
    layout = {
        "format": Setting(
            _PROMPT % "{input}", "unsloth-cli.py indents its template; kept as it is"
        ),
        "no_input_format": _PROMPT % "",
    }
    entry = {"path": Setting(path or "yahma/alpaca-cleaned", remark), "type": layout}
    draft.carry("dataset", "datasets", [entry])
    draft.set("train_on_inputs", True, "unsloth-cli.py trains on the prompt too")
    draft.change(
        "dataset", "prompt and answer are trained, as there; answers alone: train_on_inputs: false"
    )
    _carry_adapter(draft, four=bool(draft.take("load_in_4bit")), targets=_LINEARS)
    _apply(draft, ROWS, DEFAULTS)


def _apply(draft: Draft, table: Mapping[str, Row], defaults: Mapping[str, Any]) -> None:
    """The table, then the plain weights of a quantized base."""
    draft.apply(table, defaults)
    base = str(draft.ours["base_model"].value) if "base_model" in draft.ours else ""
    if plain := _QUANTIZED.sub("", base) if _QUANTIZED.search(base) else "":
        draft.set("base_model", plain, f"in the place of {base}")
        key = "model_name" if "model_name" in draft.theirs else "model"
        draft.change(key, f"quantized when it is loaded, from {plain}: load_in_4bit")


def _carry_adapter(draft: Draft, *, four: bool, targets: list[str]) -> None:
    draft.set("adapter", "qlora" if four else "lora")
    if four:
        draft.carry("load_in_4bit", "load_in_4bit", True)
    draft.set("lora_target_modules", targets)


# -- `unsloth train` ----------------------------------------------------------------------------


def _convert_sections(draft: Draft) -> None:
    """Sections are laid flat; no name is in two of them."""
    for section in _SECTIONS:
        inner = draft.take(section)
        if isinstance(inner, Mapping):
            draft.theirs.pop(section)
            draft.theirs |= {key: value for key, value in inner.items() if value is not None}
    _carry_section_data(draft)
    four = bool(draft.take("load_in_4bit", True))
    targets = names(draft.take("target_modules", _LINEARS))
    if draft.take("training_type", "lora") == "lora":
        _carry_adapter(draft, four=four, targets=targets)
        defaults = SECTION_DEFAULTS
    else:
        defaults = {k: v for k, v in SECTION_DEFAULTS.items() if not k.startswith("lora")}
        for key in ("lora_r", "lora_alpha", "lora_dropout"):
            draft.take(key)
    for key in ("training_type", "target_modules"):
        if key in draft.theirs:
            draft.carried[key] = "adapter" if key == "training_type" else "lora_target_modules"
    if draft.peek("max_steps"):
        defaults = {key: value for key, value in defaults.items() if key != "num_epochs"}
    _apply(draft, SECTION_ROWS, defaults)
    draft.set_default("lr_scheduler", "linear")
    draft.set_default("optimizer", "adamw_bnb_8bit")


_FORMATS: Mapping[str, dict[str, Any]] = {
    "alpaca": {"type": "alpaca"},
    "chatml": {"type": "chat_template"},
    "conversational": {"type": "chat_template"},
    "sharegpt": {
        "type": "chat_template",
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value"},
    },
    "raw": {"type": "completion"},
}


def _carry_section_data(draft: Draft) -> None:
    kind = str(draft.take("format_type", "auto")).lower()
    hub, local = draft.take("dataset"), draft.take("local_dataset") or []
    layout = _FORMATS.get(kind, _FORMATS["alpaca"])
    if kind == "auto":
        draft.change("format_type", "taken for alpaca; look at the records with `ft preview`")
    elif kind in _FORMATS:
        draft.carried["format_type"] = "datasets.type"
    paths = [*([hub] if hub else []), *(local if isinstance(local, list) else [local])]
    if paths:
        entries = [{"path": str(path)} | layout for path in paths]
        draft.carry("dataset" if hub else "local_dataset", "datasets", entries)
    trains_answers = draft.take("train_on_completions")
    if trains_answers:
        draft.carried["train_on_completions"] = "train_on_inputs"
    elif kind != "raw":
        draft.set("train_on_inputs", True, "unsloth trains on the prompt too by default")

"""TRL's `trl sft`: a YAML for --config, or the command line -> ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.conversion.draft import Draft, No, Row, To
from ft.spec.conversion.hf_arguments import (
    HF_DEFAULTS,
    HF_ROWS,
    carry_training,
    names,
    whole,
)
from ft.spec.conversion.peek import fields_of_first_record
from ft.spec.conversion.source_file import SourceFile
from ft.spec.conversion.writer import Setting

SIGNS = (
    "dataset_name", "use_peft", "completion_only_loss", "assistant_only_loss", "dataset_text_field",
    "dataset_train_split", "dataset_test_split", "dataset_config", "max_length", "torch_dtype",
    "dtype", "lora_r", "packing_strategy", "dataset_num_proc", "padding_free",
    "attn_implementation", "lora_task_type", "use_bnb_nested_quant", "datasets", "eval_packing",
)  # fmt: skip
PROGRAMS = ("trl", "sft.py")

_TOOL = "TRL"
_LENGTH = 1024
_CHAT, _PAIRS, _TEXT = "conversations", "prompts and completions", "texts"
_KNOWN_SETS = {
    "trl-lib/Capybara": _CHAT,
    "trl-lib/tldr": _PAIRS,
    "stanfordnlp/imdb": _TEXT,
    "timdettmers/openassistant-guanaco": _TEXT,
    "HuggingFaceH4/ultrachat_200k": _CHAT,
    "OpenAssistant/oasst_top1_2023-08-25": _TEXT,
}
_ATTENTION = {
    "flash_attention_2": "flash_attention_2",
    "sdpa": "sdpa",
    "eager": "eager",
    "kernels-community/flash-attn2": "flash_attention_2",
}


def _attention(name: Any) -> str:
    if name not in _ATTENTION:
        raise ValueError("not here; attn_implementation: auto takes the best that is installed")
    return _ATTENTION[name]


def _revision(name: Any) -> str | None:
    return None if name == "main" else str(name)


_DTYPE = "weights are held as bf16 and precision ask; a frozen base takes what the card computes in"

ROWS: dict[str, Row] = {
    **HF_ROWS,
    "model_name_or_path": To("base_model", str),
    "model_revision": To("revision_of_model", _revision),
    "attn_implementation": To("attn_implementation", _attention),
    "use_dora": To("peft_use_dora"),
    "use_rslora": To("peft_use_rslora"),
    "test_split_size": To("val_set_size", float),
    "streaming": To("streaming"),
    "dataset_streaming": To("streaming"),
    "torch_dtype": No(_DTYPE, unless=("auto",)),
    "dtype": No(_DTYPE, unless=("auto",)),
    "trust_remote_code": No("code from a model repository is never run; most models need none"),
    "dataset_num_proc": To("dataset_num_proc", whole),
    "dataset_kwargs": No("records are always prepared and checked"),
    "model_init_kwargs": No(
        "models are loaded in one way; see attn_implementation and load_in_4bit"
    ),
    "chat_template_path": No("set chat_template: jinja, with the text as chat_template_jinja"),
    "truncation_mode": No("records are cut at their end", unless=("keep_start",)),
    "shuffle_dataset": No("records are always shuffled", unless=(True,)),
    "packing_strategy": No("records are packed whole", unless=("bfd",)),
    "padding_free": No("pad tokens never reach a result here"),
    "pad_to_multiple_of": No("pad tokens never reach a result here"),
    "eval_packing": To("eval_sample_packing"),
    "loss_type": No("the usual loss, on trained tokens alone", unless=("nll", "chunked_nll")),
    "lora_task_type": No("adapters are for causal language models", unless=("CAUSAL_LM",)),
    "bnb_4bit_quant_type": No("4 bits are NF4 here", unless=("nf4",)),
    "gradient_checkpointing_use_reentrant": No("recomputation is of the non-reentrant kind"),
    "ignore_bias_buffers": No("set by the launcher"),
    "pad_token": No("the tokenizer's own; set special_tokens where it has none"),
    "env": No("set variables in the environment"),
    "lora_target_parameters": To("lora_target_parameters"),
}

DEFAULTS: dict[str, Any] = {**HF_DEFAULTS, "learning_rate": 2e-5, "gradient_checkpointing": True}


def convert_values(source: SourceFile, draft: Draft) -> None:
    """Fills the draft from a file or command of `trl sft`.

    Raises:
        UserError: It is a command of another trainer.
    """
    words = source.program.split()
    if "trl" in words and words[-1] not in ("trl", "sft"):
        what = f"trl {words[-1]} is not supported: ft tunes on records with answers"
        raise UserError(Problem(what, str(source.path), fix="convert a command of trl sft"))
    kind = _carry_datasets(draft)
    _carry_loss(draft, kind)
    _carry_length(draft, kind)
    _carry_method(draft)
    if draft.take("packing"):
        draft.carry("packing", "sample_packing", True)
    if end := draft.take("eos_token"):
        draft.carry("eos_token", "special_tokens", {"eos_token": str(end)})
    size = draft.take("test_split_size")
    if size is not None:
        draft.carry("test_split_size", "val_set_size", size)
    carry_training(draft, precision_default="auto")
    draft.apply(ROWS, DEFAULTS)


def _carry_datasets(draft: Draft) -> str:
    """`dataset_name` or the mixture in `datasets`; gives the kind of their records."""
    mixture = draft.take("datasets")
    name, test = draft.take("dataset_name"), draft.take("dataset_test_split", "test")
    split, part = draft.take("dataset_train_split", "train"), draft.take("dataset_config")
    if not isinstance(mixture, list) or not mixture:
        if name is None:
            return _CHAT
        mixture = [{"path": name, "name": part, "split": split}]
    entries = [dict(entry) for entry in mixture if isinstance(entry, Mapping) and "path" in entry]
    kind, why = _kind(draft, str(entries[0]["path"]) if entries else "")
    made = [_entry(draft, entry, kind, why) for entry in entries]
    key = "dataset_name" if name is not None else "datasets"
    draft.carry(key, "datasets", made)
    for theirs in ("dataset_train_split", "dataset_config", "dataset_text_field"):
        if theirs in draft.theirs:
            draft.carried[theirs] = "datasets"
    if why:
        draft.change(key, f"taken for {kind}, {why}; look at them with `ft preview`")
    is_evaluated = draft.peek("eval_strategy", draft.peek("evaluation_strategy", "no"))
    if is_evaluated not in ("no", False) and made and draft.peek("test_split_size") is None:
        theirs = "dataset_test_split" if "dataset_test_split" in draft.theirs else ""
        draft.carry(theirs, "test_datasets", [made[0] | {"split": str(test)}])
    return kind


def _kind(draft: Draft, path: str) -> tuple[str, str]:
    """What the records are, and, where that is a guess, why."""
    fields = fields_of_first_record(Path(path))
    if draft.peek("assistant_only_loss"):
        return _CHAT, ""
    if {"messages", "conversations"} & set(fields):
        return _CHAT, ""
    if draft.peek("completion_only_loss") or {"prompt", "completion"} <= set(fields):
        return _PAIRS, ""
    if draft.peek("dataset_text_field") or "text" in fields:
        return _TEXT, ""
    if path in _KNOWN_SETS:
        return _KNOWN_SETS[path], ""
    return _CHAT, "since TRL finds out from the records, which are not here"


def _entry(draft: Draft, theirs: Mapping[str, Any], kind: str, why: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"path": str(theirs["path"])}
    for key in ("name", "data_files"):
        if theirs.get(key):
            entry[key] = theirs[key]
    if theirs.get("split") not in (None, "train"):
        entry["split"] = str(theirs["split"])
    for key in ("data_dir", "columns"):
        if theirs.get(key):
            draft.lose(f"datasets: {key}", theirs[key], "name the files in data_files")
    remark = "a guess: `ft preview` shows what it makes of the records" if why else ""
    if kind == _CHAT:
        return entry | {"type": Setting("chat_template", remark)}
    if kind == _TEXT:
        field = draft.take("dataset_text_field", "text")
        return entry | {"type": "completion"} | ({} if field == "text" else {"field": field})
    layout = {
        "field_instruction": "prompt",
        "field_output": "completion",
        "format": "{instruction}",
        "no_input_format": "{instruction}",
    }
    return entry | {"type": layout}


def _carry_loss(draft: Draft, kind: str) -> None:
    """Which tokens are trained: TRL trains whole conversations and texts if it is not told."""
    answers, completions = draft.take("assistant_only_loss"), draft.take("completion_only_loss")
    if answers:
        draft.carried["assistant_only_loss"] = "train_on_inputs"
    if completions is not None:
        draft.carried["completion_only_loss"] = "train_on_inputs"
    if kind == _CHAT and not answers:
        draft.set("train_on_inputs", True, "TRL trains whole conversations by default")
        draft.change(
            "assistant_only_loss",
            "contents of all turns are trained, as in TRL; role headers only there. "
            "Most want answers alone: train_on_inputs: false",
        )
    elif kind == _PAIRS and completions is False:
        draft.set("train_on_inputs", True)


def _carry_length(draft: Draft, kind: str) -> None:
    key = "max_length" if "max_length" in draft.theirs else "max_seq_length"
    length = draft.take("max_length") or draft.take("max_seq_length")
    draft.take("max_seq_length")
    remark = "" if length else f"{_TOOL}'s default"
    draft.carry(key if length else "", "sequence_len", whole(length or _LENGTH), comment=remark)
    if kind == _TEXT:
        draft.change(
            key, "a longer text is trained in several rows; TRL cuts it and drops the rest"
        )
    else:
        draft.set(
            "excess_length_strategy", "truncate", f"{_TOOL} cuts long records; ft would drop them"
        )


def _carry_method(draft: Draft) -> None:
    is_adapter, four, eight = (
        draft.take("use_peft"),
        draft.take("load_in_4bit"),
        draft.take("load_in_8bit"),
    )
    nested = draft.take("use_bnb_nested_quant")
    if not is_adapter:
        if "use_peft" in draft.theirs:
            draft.carried["use_peft"] = "adapter"
        for key in (
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "lora_target_modules",
            "lora_modules_to_save",
        ):
            if (value := draft.take(key)) is not None:
                draft.lose(
                    key, value, "without use_peft TRL trains all parameters: add adapter: lora"
                )
        if four or eight:
            why = (
                "without use_peft nothing is left to train: add adapter: qlora (4 bits) or lora (8)"
            )
            draft.lose("load_in_4bit" if four else "load_in_8bit", True, why)
        return
    draft.carry("use_peft", "adapter", "qlora" if four else "lora")
    if four:
        draft.carry("load_in_4bit", "load_in_4bit", True)
        if not nested:
            draft.change(
                "use_bnb_nested_quant", "4 bits are quantized twice here: a little smaller"
            )
    elif eight:
        draft.carry("load_in_8bit", "load_in_8bit", True)
    for key, default in (("lora_r", 16), ("lora_alpha", 32), ("lora_dropout", 0.05)):
        remark = "" if key in draft.theirs else f"{_TOOL}'s default"
        draft.carry(key, key, draft.take(key, default), comment=remark)
    _carry_targets(draft)


def _carry_targets(draft: Draft) -> None:
    targets, whole_modules = draft.take("lora_target_modules"), draft.take("lora_modules_to_save")
    if targets in ("all-linear", ["all-linear"]):
        draft.carry("lora_target_modules", "lora_target_linear", True)
    elif targets:
        draft.carry("lora_target_modules", "lora_target_modules", names(targets))
    else:
        remark = "PEFT's choice for Llama, Mistral, Qwen; lora_target_linear: true learns more"
        draft.set("lora_target_modules", ["q_proj", "v_proj"], remark)
    if whole_modules:
        draft.carry("lora_modules_to_save", "lora_modules_to_save", names(whole_modules))

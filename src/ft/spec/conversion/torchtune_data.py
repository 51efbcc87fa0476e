"""torchtune's dataset builders -> entries of `datasets:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.spec.conversion.chat_formats import CONTENT, EOS, ChatFormat
from ft.spec.conversion.draft import Draft
from ft.spec.conversion.writer import Setting

_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
_SOURCES = {
    "alpaca_dataset": "tatsu-lab/alpaca",
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "grammar_dataset": "liweili/c4_200m",
    "samsum_dataset": "Samsung/samsum",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
    "wikitext_dataset": "wikitext",
    "cnn_dailymail_articles_dataset": "ccdv/cnn_dailymail",
}
_PREFIXES = {
    "grammar_dataset": "Correct this to standard English: ",
    "samsum_dataset": "Summarize this dialogue:\n",
}
_COLUMNS = {
    "grammar_dataset": {"input": "input", "output": "output"},
    "samsum_dataset": {"input": "dialogue", "output": "summary"},
}
_TEXT_FIELDS = {"wikitext_dataset": "page", "cnn_dailymail_articles_dataset": "article"}
_READERS = ("json", "csv", "text", "parquet", "arrow")
_TRAINS_INPUTS = ("alpaca_dataset", "alpaca_cleaned_dataset")
_USED = {
    "_component_", "source", "data_files", "split", "name", "column_map", "column",
    "train_on_input", "packed", "new_system_prompt", "conversation_column",
    "conversation_style", "masking_strategy",
}  # fmt: skip


def carry_datasets(draft: Draft, form: ChatFormat) -> None:
    """`dataset` (one block or a list) and `dataset_val`.

    Args:
        draft: Of a torchtune file.
        form: How its tokenizer writes messages.
    """
    for theirs, ours in (("dataset", "datasets"), ("dataset_val", "test_datasets")):
        given = draft.take(theirs)
        blocks = given if isinstance(given, list) else [given] if isinstance(given, Mapping) else []
        entries = [entry for block in blocks if (entry := _entry(draft, block, form))]
        if entries:
            draft.carry(theirs, ours, entries)
    if "datasets" in draft.ours:
        _carry_common(draft)


def _carry_common(draft: Draft) -> None:
    """What is said of one data set there, and of all here."""
    given = draft.theirs["dataset"]
    blocks = given if isinstance(given, list) else [given]
    if any(block.get("packed") for block in blocks):
        draft.carry("dataset", "sample_packing", True)
    trained = [_trains_inputs(block) for block in blocks]
    if any(trained):
        remark = "torchtune trains alpaca's prompts by default"
        draft.set("train_on_inputs", True, remark if "alpaca" in str(given) else "")
    if any(trained) and not all(trained):
        why = "prompts of all data sets are trained; there, of some"
        draft.change("dataset", why)


def _trains_inputs(block: Mapping[str, Any]) -> bool:
    name = str(block.get("_component_", "")).rsplit(".", 1)[-1]
    given = block.get("train_on_input")
    if block.get("masking_strategy"):
        return bool(block["masking_strategy"] == "train_on_all")
    return name in _TRAINS_INPUTS if given is None else bool(given)


def _entry(draft: Draft, block: Any, form: ChatFormat) -> dict[str, Any] | None:
    name = str(block.get("_component_", "")).rsplit(".", 1)[-1]
    entry = _source(block, name)
    for key in block.keys() - _USED:
        draft.lose(f"dataset: {key}", block[key], "there is nothing of the kind here")
    if name in ("alpaca_dataset", "alpaca_cleaned_dataset"):
        return entry | _alpaca(block, form)
    if name in ("instruct_dataset", "grammar_dataset", "samsum_dataset"):
        return entry | _instruct(draft, block, name, form)
    if name in ("chat_dataset", "slimorca_dataset"):
        return entry | _chat(draft, block, form)
    if name in ("text_completion_dataset", *_TEXT_FIELDS):
        field = block.get("column") or _TEXT_FIELDS.get(name, "text")
        return entry | {"type": "completion"} | ({} if field == "text" else {"field": field})
    draft.lose("dataset", name, "name the file and its type yourself: `ft explain datasets`")
    return None


def _source(block: Mapping[str, Any], name: str) -> dict[str, Any]:
    source, files = block.get("source") or _SOURCES.get(name, ""), block.get("data_files")
    entry: dict[str, Any] = {}
    if source in _READERS and isinstance(files, str):
        entry["path"] = files
        if not files.lower().split("?")[0].endswith((f".{source}", ".jsonl", ".txt")):
            entry["ds_type"] = source
    else:
        remark = "" if block.get("source") else "torchtune's default"
        entry["path"] = Setting(source, remark)
        if files:
            entry["data_files"] = files
    if block.get("name"):
        entry["name"] = block["name"]
    if block.get("split") not in (None, "train"):
        entry["split"] = block["split"]
    return entry


def _alpaca(block: Mapping[str, Any], form: ChatFormat) -> dict[str, Any]:
    """Alpaca's prompt; in a chat model's tokenizer it stands inside a user's turn."""
    columns = {"instruction": "instruction", "input": "input", "output": "output"}
    columns |= block.get("column_map") or {}
    is_plain = form.user == CONTENT
    if is_plain and all(key == value for key, value in columns.items()):
        return {"type": "alpaca"}
    fields = {f"field_{key}": value for key, value in columns.items() if key != value}
    formats = {
        "format": form.user.replace(CONTENT, _ALPACA_WITH_INPUT),
        "no_input_format": form.user.replace(CONTENT, _ALPACA),
    }
    return {"type": fields | formats}


def _instruct(
    draft: Draft, block: Mapping[str, Any], name: str, form: ChatFormat
) -> dict[str, Any]:
    columns = {"input": "input", "output": "output"} | _COLUMNS.get(name, {})
    columns |= block.get("column_map") or {}
    prefix = _PREFIXES.get(name, "")
    prompt = form.user.replace(CONTENT, f"{prefix}{{instruction}}")
    layout = {"field_instruction": columns["input"], "field_output": columns["output"]}
    system = block.get("new_system_prompt")
    if system:
        layout |= {
            "system_prompt": system,
            "system_format": form.system.replace(CONTENT, "{system}"),
        }
        draft.carried["dataset"] = "datasets"
    # The question is in both formats, so a field of the name `input` is never added to it.
    return {"type": layout | {"format": prompt, "no_input_format": prompt}}


def _chat(draft: Draft, block: Mapping[str, Any], form: ChatFormat) -> dict[str, Any]:
    style = block.get("conversation_style") or "sharegpt"
    field = block.get("conversation_column")
    columns = block.get("column_map") or {}
    usual = "conversations" if style == "sharegpt" else "messages"
    field = field or columns.get(usual) or usual
    entry: dict[str, Any] = {"type": "chat_template"}
    if field != "messages":
        entry["field_messages"] = field
    if style == "sharegpt":
        entry["message_property_mappings"] = {"role": "from", "content": "value"}
    if block.get("new_system_prompt"):
        why = "write it into the records, as their first turn"
        draft.lose("dataset: new_system_prompt", block["new_system_prompt"], why)
    if form.user == CONTENT or EOS in form.user:
        why = "the tokenizer's own chat template is used; look at it with `ft preview`"
        draft.change("tokenizer", why)
    else:
        draft.set("chat_template", "jinja")
        draft.set("chat_template_jinja", form.jinja(), "as torchtune's tokenizer writes messages")
    return entry

"""Names and values that stand for others: old keys, words that mean another one, rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rename:
    """An old key: its name today, and what its value becomes there."""

    new: str
    convert: Callable[[Any], Any] = lambda value: value
    """Returns None where the old value means the new key's default."""
    convert_in: Callable[[Mapping[str, Any]], Any] | None = None
    """In place of `convert`, from all values of the file; a ValueError says what is wrong."""


def _if_true(value_today: str | bool) -> Callable[[Any], Any]:
    return lambda value: value_today if value is True else (None if value is False else value)


def _passes_of_a_step(values: Mapping[str, Any]) -> Any:
    """gradient_accumulation_steps, from the records of a step and of a pass."""
    batch_size, micro = values["batch_size"], values.get("micro_batch_size") or 1
    if not isinstance(batch_size, int) or not isinstance(micro, int):
        return batch_size
    if batch_size % micro:
        raise ValueError(f"batch_size {batch_size} is no multiple of micro_batch_size {micro}")
    return batch_size // micro


RENAMED: dict[str, Rename] = {
    "flash_attention": Rename("attn_implementation", _if_true("flash_attention_2")),
    "xformers_attention": Rename("attn_implementation", _if_true("xformers")),
    "sdp_attention": Rename("attn_implementation", _if_true("sdpa")),
    "flex_attention": Rename("attn_implementation", _if_true("flex_attention")),
    "sage_attention": Rename("attn_implementation", _if_true("sage")),
    "eager_attention": Rename("attn_implementation", _if_true("eager")),
    "float16": Rename("fp16", _if_true(True)),
    "bfloat16": Rename("bf16", _if_true(True)),
    "adam_eps": Rename("adam_epsilon"),
    "dataset_processes": Rename("dataset_num_proc"),
    "batch_size": Rename("gradient_accumulation_steps", convert_in=_passes_of_a_step),
    "evaluation_strategy": Rename("eval_strategy"),
    "max_length": Rename("sequence_len"),
    "model_revision": Rename("revision_of_model"),
    "pretrain_multipack_buffer_size": Rename("streaming_multipack_buffer_size"),
    "noisy_embedding_alpha": Rename("neftune_noise_alpha"),
    "model_config": Rename("overrides_of_model_config"),
    "pretraining_dataset": Rename("datasets"),  # read before the others: pretraining.py
}

RENAMED_IN_DATASETS: dict[str, Rename] = {
    "train_on_split": Rename("split"),
    "text_column": Rename("field"),
    "message_field_role": Rename(
        "message_property_mappings", lambda name: {"role": name} if name else None
    ),
    "message_field_content": Rename(
        "message_property_mappings", lambda name: {"content": name} if name else None
    ),
}

MEANINGS: dict[str, dict[bool | str, Any]] = {
    "eval_strategy": {False: "no"},  # YAML 1.1 reads a bare `no` as false
    "save_strategy": {False: "no"},
    "adapter": {"none": None, False: None},
}
"""Values that are written one way and meant another."""

RIVALS: dict[str, tuple[str, ...]] = {
    "bf16": ("fp16",),
    "fp16": ("bf16",),
    "load_in_4bit": ("load_in_8bit",),
    "load_in_8bit": ("load_in_4bit",),
    "warmup_steps": ("warmup_ratio",),
    "warmup_ratio": ("warmup_steps",),
    "eval_steps": ("evals_per_epoch",),
    "evals_per_epoch": ("eval_steps",),
    "save_steps": ("saves_per_epoch",),
    "saves_per_epoch": ("save_steps",),
}
"""Keys that answer the same question: an override of one replaces what the file says by another."""

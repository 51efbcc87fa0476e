"""What the keys of the dialect mean to `ft` today.

Every key is in exactly one state:
    works          a field of ``RunSpec`` (runspec.py), under its own name or an old one (RENAMED)
    no effect      accepted, said once: it changes no result here (NO_EFFECT)
    not supported  an error that says what to use instead (NOT_SUPPORTED)
Any other key is unknown, and an error. Null means the default, and so does "off" for an unsupported
key.
"""

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


def _if_true(value_today: str) -> Callable[[Any], Any]:
    return lambda value: value_today if value is True else (None if value is False else value)


RENAMED: dict[str, Rename] = {
    "flash_attention": Rename("attn_implementation", _if_true("flash_attention_2")),
    "xformers_attention": Rename("attn_implementation", _if_true("xformers")),
    "sdp_attention": Rename("attn_implementation", _if_true("sdpa")),
    "float16": Rename("fp16"),
    "bfloat16": Rename("bf16"),
    "adam_eps": Rename("adam_epsilon"),
}

RENAMED_IN_DATASETS: dict[str, Rename] = {
    "train_on_split": Rename("split"),
    "message_field_role": Rename(
        "message_property_mappings", lambda name: {"role": name} if name else None
    ),
    "message_field_content": Rename(
        "message_property_mappings", lambda name: {"content": name} if name else None
    ),
}

_NO_TRACKER = "no tracker is connected yet; every metric is in events.jsonl"
_OWN_KERNELS = "a faster way to the same numbers elsewhere; nothing to switch here"
_DERIVED = "read from the checkpoint itself"

NO_EFFECT: dict[str, str] = {
    "base_model_config": "config and tokenizer come from base_model (or tokenizer_config)",
    "model_type": _DERIVED,
    "tokenizer_type": _DERIVED,
    "processor_type": _DERIVED,
    "is_llama_derived_model": _DERIVED,
    "is_mistral_derived_model": _DERIVED,
    "is_falcon_derived_model": _DERIVED,
    "strict": "unknown keys are always an error",
    "dataset_prepared_path": "data is tokenized anew at every start, for now",
    "dataset_processes": "the tokenizer uses every core by itself",
    "pad_to_sequence_len": "pad tokens change no result; batches are only as wide as they must be",
    "remove_unused_columns": "columns that the strategy does not read never reach the model",
    "save_safetensors": "weights are always saved as safetensors",
    "resume_from_checkpoint": "the same command resumes by itself",
    "auto_resume_from_checkpoints": "the same command resumes by itself",
    "local_rank": "set by the launcher",
    "debug": "see `ft train --debug`",
    "eval_table_size": "see `ft eval`, which shows answers of base and tuned",
    "eval_max_new_tokens": "see `ft eval --max-new-tokens`",
    "gradient_checkpointing_kwargs": "recomputation is always of the non-reentrant kind",
    "loss_watchdog_threshold": "a loss that is not a number always stops the run",
    "loss_watchdog_patience": "a loss that is not a number always stops the run",
    "low_cpu_mem_usage": "always on",
    "tokenizer_use_fast": "always the fast tokenizer",
    "tokenizer_legacy": _DERIVED,
    "torchdistx_path": "no longer used by anyone",
    "ddp_find_unused_parameters": "one process today",
    "experimental_skip_move_to_device": "weights are loaded onto the device directly",
    "hf_use_auth_token": "the token of `hf auth login` is used where one is needed",
    "use_tensorboard": _NO_TRACKER,
    **dict.fromkeys(
        ["wandb_project", "wandb_entity", "wandb_name", "wandb_run_id", "wandb_watch",
         "wandb_log_model", "wandb_mode", "trackio_project_name", "trackio_run_name",
         "trackio_space_id"],
        _NO_TRACKER,
    ),
    **dict.fromkeys(
        ["liger_rope", "liger_rms_norm", "liger_rms_norm_gated", "liger_layer_norm", "liger_swiglu",
         "liger_glu_activation", "liger_cross_entropy", "liger_fused_linear_cross_entropy",
         "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "use_kernels", "fused_attn_kernel",
         "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_qkv",
         "flash_attn_fuse_mlp", "flash_optimum", "cut_cross_entropy"],
        _OWN_KERNELS,
    ),
}  # fmt: skip

_ONE_GPU = "one GPU today: remove it"
_LATER = "not built yet; remove it"

NOT_SUPPORTED: dict[str, str] = {
    "sample_packing": "not built yet: set it to false; the results are the same, only slower",
    "eval_sample_packing": "not built yet: set it to false",
    "group_by_length": "not built yet: set it to false",
    "deepspeed": _ONE_GPU,
    "fsdp": _ONE_GPU,
    "fsdp_config": _ONE_GPU,
    "fsdp_version": _ONE_GPU,
    "dp_shard_size": _ONE_GPU,
    "context_parallel_size": _ONE_GPU,
    "tensor_parallel_size": _ONE_GPU,
    "rl": "supervised tuning only, today: remove it",
    "trl": "supervised tuning only, today: remove it",
    "ebft": "supervised tuning only, today: remove it",
    "reward_model": "supervised tuning only, today: remove it",
    "pretraining_dataset": "put the set under `datasets:` with `type: completion`",
    "unfrozen_parameters": "not built yet: train a LoRA adapter, or all parameters",
    "torch_compile": _LATER,
    "activation_offloading": "use gradient_checkpointing: true",
    "plugins": "plugins run foreign code: remove it",
    "gptq": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "gptq_groupsize": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "gptq_model_v1": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "model_quantization_config": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "model_quantization_config_kwargs": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "bnb_config_kwargs": "4-bit is NF4 with double quantization; remove it",
    "qat": _LATER,
    "quantize_moe_experts": _LATER,
    "batch_size": "set micro_batch_size and gradient_accumulation_steps",
    "max_packed_sequence_len": "set sequence_len",
    "push_dataset_to_hub": _LATER,
    "hub_model_id": _LATER,
    "hub_strategy": _LATER,
    "skip_prepare_dataset": "records are always checked; remove it",
    "lr_quadratic_warmup": "use warmup_steps (linear)",
    "resize_token_embeddings_to_32x": "embeddings grow by the new tokens alone; remove it",
    "lora_target_parameters": "use lora_target_modules",
    "peft_use_rslora": _LATER,
    "peft_use_dora": _LATER,
    "loraplus_lr_ratio": _LATER,
    "relora_steps": _LATER,
    "neftune_noise_alpha": _LATER,
    "rope_scaling": "set it in the checkpoint's config.json",
    "model_config": "set it in the checkpoint's config.json",
    "overrides_of_model_config": "set it in the checkpoint's config.json",
    "s2_attention": "use attn_implementation: auto",
    "flex_attention": "use attn_implementation: auto",
    "flex_attn_compile_kwargs": "use attn_implementation: auto",
    "gemma4_hybrid_attn_impl": "use attn_implementation: auto",
    "tokenizer_use_mistral_common": "use the tokenizer.json of the checkpoint",
    "dataset_exact_deduplication": _LATER,
    "curriculum_sampling": _LATER,
    "streaming": _LATER,
    "llama4_linearized_experts": _LATER,
    "use_scattermoe": _LATER,
    "use_sonicmoe": _LATER,
    "experts_implementation": _LATER,
}

NOT_SUPPORTED_IN_DATASETS: dict[str, str] = {
    "shards": "use a slice: split: train[:25%]",
    "shards_idx": "use a slice: split: train[25%:50%]",
    "preprocess_shards": "remove it",
    "conversation": "use type: chat_template",
    "field_human": "use message_property_mappings",
    "field_model": "use message_property_mappings",
    "message_field_training": _LATER,
    "message_field_training_detail": _LATER,
    "train_on_eot": "set train_on_eos; end tokens are named by eot_tokens",
    "field_tools": _LATER,
    "field_thinking": _LATER,
    "template_thinking_key": _LATER,
    "split_thinking": _LATER,
    "drop_system_message": _LATER,
    "field_chosen": "supervised tuning only, today: remove it",
    "field_rejected": "supervised tuning only, today: remove it",
    "input_transform": "use a strategy file of your own: type: ./my_strategy.py",
    "temperature": _LATER,
    "logprobs_field": _LATER,
    "trust_remote_code": "loading scripts are never run; convert the set to JSON or Parquet",
    "chat_template_jinja": "set chat_template_jinja at the top level",
    "text_column": "use type: completion with field",
    "input_format": "use type: completion, or type as a mapping with format",
    "step_separator": "reward models are not built; remove it",
    "max_completion_length": "reward models are not built; remove it",
    "train_on_last_step_only": "reward models are not built; remove it",
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

OFF: tuple[Any, ...] = (None, False, 0, "", "none", "no", [], {}, ())
"""Values by which an unsupported key asks for nothing."""


def is_off(value: Any) -> bool:
    """Whether the value of an unsupported key asks for nothing."""
    return any(value == off and type(value) is type(off) for off in OFF)


@dataclass(frozen=True)
class Contradiction:
    """Keys that can't hold together."""

    keys: tuple[str, ...]
    what: str
    fix: str
    holds: Callable[[Mapping[str, Any]], Any]
    """Given the flat values (null keys absent), true if the contradiction is there."""


CONTRADICTIONS = (
    Contradiction(
        ("load_in_8bit", "load_in_4bit"),
        "load_in_8bit and load_in_4bit are both on",
        "turn one of them off",
        lambda v: v.get("load_in_8bit") is True and v.get("load_in_4bit") is True,
    ),
    Contradiction(
        ("adapter", "load_in_4bit"),
        "adapter: qlora needs a 4-bit base",
        "set load_in_4bit: true, or adapter: lora",
        lambda v: v.get("adapter") == "qlora" and not v.get("load_in_4bit"),
    ),
    Contradiction(
        ("load_in_4bit", "load_in_8bit", "adapter"),
        "a quantized base is frozen, and without an adapter nothing is left to train",
        "set adapter: qlora (4 bits) or adapter: lora, or turn the quantization off",
        lambda v: (
            (v.get("load_in_4bit") is True or v.get("load_in_8bit") is True)
            and not v.get("adapter")
            and not v.get("lora_model_dir")
        ),
    ),
    Contradiction(
        ("lora_model_dir", "adapter"),
        "lora_model_dir goes on from an adapter, but no adapter is asked for",
        "set adapter: lora (or qlora)",
        lambda v: v.get("lora_model_dir") and not v.get("adapter"),
    ),
    Contradiction(
        ("random_init_seed", "adapter"),
        "random weights are trained themselves, so they get no adapter and stay unquantized",
        "remove adapter and load_in_4bit or load_in_8bit, or random_init_seed",
        lambda v: (
            v.get("random_init_seed") is not None
            and (v.get("adapter") or v.get("load_in_4bit") is True or v.get("load_in_8bit") is True)
        ),
    ),
    Contradiction(
        ("fp16", "bf16"),
        "bf16 and fp16 are both on",
        "keep bf16 where the card has it (capability 8.0 or newer), else fp16",
        lambda v: v.get("fp16") is True and v.get("bf16") in (True, "full"),
    ),
    Contradiction(
        ("warmup_steps", "warmup_ratio"),
        "warmup_steps and warmup_ratio are both given",
        "keep one",
        lambda v: "warmup_steps" in v and "warmup_ratio" in v,
    ),
    Contradiction(
        ("eval_steps", "evals_per_epoch"),
        "eval_steps and evals_per_epoch are both given",
        "keep one",
        lambda v: "eval_steps" in v and "evals_per_epoch" in v,
    ),
    Contradiction(
        ("save_steps", "saves_per_epoch"),
        "save_steps and saves_per_epoch are both given",
        "keep one",
        lambda v: "save_steps" in v and "saves_per_epoch" in v,
    ),
    Contradiction(
        ("eval_strategy", "eval_steps"),
        "eval_strategy says otherwise than eval_steps or evals_per_epoch",
        "remove eval_strategy",
        lambda v: (
            (
                v.get("eval_strategy") in ("no", "epoch")
                and ("eval_steps" in v or "evals_per_epoch" in v)
            )
            or (v.get("eval_strategy") == "steps" and "eval_steps" not in v)
        ),
    ),
    Contradiction(
        ("save_strategy", "save_steps"),
        "save_strategy says otherwise than save_steps or saves_per_epoch",
        "remove save_strategy",
        lambda v: (
            (
                v.get("save_strategy") in ("no", "epoch")
                and ("save_steps" in v or "saves_per_epoch" in v)
            )
            or (v.get("save_strategy") == "steps" and "save_steps" not in v)
        ),
    ),
    Contradiction(
        ("early_stopping_patience", "load_best_model_at_end", "val_set_size"),
        "early stopping and the best model need held-out records",
        "set val_set_size: 0.05, or give test_datasets",
        lambda v: (
            (v.get("early_stopping_patience") or v.get("load_best_model_at_end") is True)
            and not v.get("val_set_size")
            and not v.get("test_datasets")
        ),
    ),
    Contradiction(
        ("test_datasets", "val_set_size"),
        "test_datasets and val_set_size both name the held-out records",
        "set val_set_size: 0, or remove test_datasets",
        lambda v: v.get("test_datasets") and v.get("val_set_size"),
    ),
    Contradiction(
        ("chat_template", "chat_template_jinja"),
        "chat_template: jinja needs the template itself",
        "give it as chat_template_jinja",
        lambda v: v.get("chat_template") == "jinja" and not v.get("chat_template_jinja"),
    ),
)

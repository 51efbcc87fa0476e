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

from ft.spec.runspec import PREFERENCE_KEYS


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
    "model_revision": Rename("revision_of_model"),
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

NO_TRACKER = "no tracker is connected yet; every metric is in events.jsonl"
_OWN_KERNELS = "a faster way to the same numbers elsewhere; nothing to switch here"
_DERIVED = "read from the checkpoint itself"
_SPEED = "the same numbers, at another speed or in other memory"
_ONE_PROCESS = "one process holds the whole model, so there is nothing to spread"
_NO_SERVER = "answers come from `ft infer`"

NO_EFFECT: dict[str, str] = {
    "base_model_config": "config and tokenizer come from base_model (or tokenizer_config)",
    "model_type": _DERIVED,
    "tokenizer_type": _DERIVED,
    "processor_type": _DERIVED,
    "is_llama_derived_model": _DERIVED,
    "is_mistral_derived_model": _DERIVED,
    "is_falcon_derived_model": _DERIVED,
    "strict": "unknown keys are always an error",
    "pad_to_sequence_len": "pad tokens change no result; batches are only as wide as they must be",
    "sample_packing_group_size": "all records are packed together, however many there are",
    "sample_packing_bin_size": "a pack holds as many records as fit",
    "sample_packing_sequentially": "packs are always best-fit; their order is drawn from the seed",
    "sample_packing_eff_est": "packs are counted, not estimated",
    "sample_packing_mp_start_method": "packing takes a moment, and no processes of its own",
    "total_num_tokens": "tokens are counted, not estimated",
    "remove_unused_columns": "columns that the strategy does not read never reach the model",
    "save_safetensors": "weights are always saved as safetensors",
    "resume_from_checkpoint": "the same command resumes by itself",
    "auto_resume_from_checkpoints": "the same command resumes by itself",
    "local_rank": "set by the launcher",
    "debug": "see `ft train --debug`",
    "eval_table_size": "see `ft eval`, which shows answers of base and tuned",
    "eval_max_new_tokens": "see `ft eval --max-new-tokens`",
    "gradient_checkpointing_kwargs": "recomputation is always of the non-reentrant kind",
    "low_cpu_mem_usage": "always on",
    "tokenizer_use_fast": "always the fast tokenizer",
    "tokenizer_legacy": _DERIVED,
    "torchdistx_path": "no longer used by anyone",
    "plugins": "plugins of axolotl's that only compute the same numbers faster, or keep a log",
    "fsdp": _ONE_PROCESS,
    "fsdp_config": _ONE_PROCESS,
    "fsdp_version": _ONE_PROCESS,
    "fsdp_final_state_dict_type": _ONE_PROCESS,
    "deepspeed": _ONE_PROCESS,
    "deepcompile": _ONE_PROCESS,
    "qlora_sharded_model_loading": _ONE_PROCESS,
    **dict.fromkeys(
        ["ddp_find_unused_parameters", "ddp", "ddp_bucket_cap_mb",
         "ddp_broadcast_buffers", "world_size", "heads_k_stride", "ring_attn_func"],
        "one process today",
    ),
    "accelerator_config": "ft sets accelerate up by itself",
    "device": "the launcher's choice, or the one card there is",
    "device_map": "the whole model lies on the device of its process",
    "max_memory": "the whole model lies on the device of its process",
    "experimental_skip_move_to_device": "weights are loaded onto the device directly",
    "trust_remote_code": "code from a model repository is never run; a checkpoint that needs it "
    "is an error when it is loaded",
    **dict.fromkeys(
        ["torch_compile", "torch_compile_backend", "torch_compile_mode", "torch_compile_options",
         "flex_attn_compile_kwargs", "gemma4_hybrid_attn_impl", "large_head_attention",
         "flash_attn_d512", "sdpa_varlen", "batch_flattening", "tiled_mlp", "tiled_mlp_num_shards",
         "tiled_mlp_use_original_mlp", "activation_offloading", "layer_offloading",
         "selective_checkpointing", "chunked_cross_entropy", "chunked_cross_entropy_num_chunks",
         "lora_embedding_kernel", "use_scattermoe", "use_sonicmoe", "experts_implementation",
         "ple_cpu_offload", "lora_on_cpu", "gpu_memory_limit", "multipack_real_batches",
         "dataloader_pin_memory", "dataloader_num_workers", "dataloader_prefetch_factor",
         "dataset_keep_in_memory", "pad_to_multiple_of", "gc_steps", "gc_collect_steps",
         "torch_empty_cache_steps", "use_dsv4_kernels", "use_glm_dsa_kernels"],
        _SPEED,
    ),
    "resize_token_embeddings_to_32x": "rows that no token uses are a matter of speed; embeddings "
    "grow by the new tokens alone",
    "torch_dtype": "bf16 and fp16 say it",
    "save_only_model": "a run can be resumed from every checkpoint",
    "save_first_step": "a checkpoint after the first step changes no result",
    "skip_prepare_dataset": "records are always checked before the first step",
    "num_dataset_shards_to_save": "a matter of the cache's files",
    "base_model_ignore_patterns": "only safetensors are read",
    "gptq_disable_exllama": "a setting of GPTQ, which is not built",
    "profiler_steps": "no profile is written",
    "profiler_steps_start": "no profile is written",
    "include_tokens_per_second": "tokens a second are always reported",
    "include_tkps": "tokens a second are always reported",
    "tokenizer_save_jinja_files": "the tokenizer is saved as transformers does",
    "merge_lora": "see `ft merge`",
    "merge_method": "see `ft merge`",
    **dict.fromkeys(
        ["generate_samples", "num_generation_samples", "generation_max_new_tokens",
         "generation_temperature", "generation_top_p", "generation_top_k",
         "generation_prompt_ratio", "generation_do_sample"],
        "see `ft eval`, which shows answers of base and tuned",
    ),
    **dict.fromkeys(
        ["gradio_title", "gradio_share", "gradio_server_name", "gradio_server_port",
         "gradio_max_new_tokens", "gradio_temperature"],
        _NO_SERVER,
    ),
    "hf_use_auth_token": "the token of `hf auth login` is used where one is needed",
    "use_tensorboard": NO_TRACKER,
    **dict.fromkeys(
        ["use_wandb", "wandb_project", "wandb_entity", "wandb_name", "wandb_run_id", "wandb_watch",
         "wandb_log_model", "wandb_mode", "use_trackio", "trackio_project_name",
         "trackio_run_name", "trackio_space_id", "use_mlflow", "mlflow_tracking_uri",
         "mlflow_experiment_name", "mlflow_run_name", "hf_mlflow_log_artifacts", "use_comet",
         "comet_workspace", "comet_project_name", "comet_experiment_key", "comet_mode",
         "comet_online", "comet_experiment_config", "use_swanlab", "swanlab_project",
         "swanlab_experiment_name", "swanlab_description", "swanlab_mode", "swanlab_workspace",
         "swanlab_log_model", "swanlab_log_completions", "swanlab_completion_log_interval",
         "swanlab_completion_max_buffer", "use_otel_metrics", "otel_metrics_host",
         "otel_metrics_port"],
        NO_TRACKER,
    ),
    **dict.fromkeys(
        ["liger_rope", "liger_rms_norm", "liger_rms_norm_gated", "liger_layer_norm", "liger_swiglu",
         "liger_glu_activation", "liger_cross_entropy", "liger_fused_linear_cross_entropy",
         "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "use_kernels", "fused_attn_kernel",
         "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_qkv",
         "flash_attn_fuse_mlp", "flash_optimum", "cut_cross_entropy", "liger_rms_norm_swap",
         "unsloth_lora_mlp", "unsloth_lora_qkv", "unsloth_lora_o", "unsloth_rms_norm",
         "unsloth_rope", "unsloth_cross_entropy_loss"],
        _OWN_KERNELS,
    ),
}  # fmt: skip

_ONE_GPU = "one GPU today: remove it"
_LATER = "not built yet; remove it"
_SUPERVISED = "supervised tuning only, today: remove it"

NOT_SUPPORTED: dict[str, str] = {
    "dp_shard_size": _ONE_GPU,
    "dp_replicate_size": _ONE_GPU,
    "expert_parallel_size": _ONE_GPU,
    "expert_parallel_num_nvl_bytes": _ONE_GPU,
    "expert_parallel_token_capacity": _ONE_GPU,
    "sequence_parallel_degree": _ONE_GPU,
    "use_ray": "start it without Ray: remove it",
    "ray_run_name": "start it without Ray: remove it",
    "ray_num_workers": "start it without Ray: remove it",
    "resources_per_worker": "start it without Ray: remove it",
    "context_parallel_size": _ONE_GPU,
    "tensor_parallel_size": _ONE_GPU,
    "rl": "supervised tuning only, today: remove it",
    "trl": "supervised tuning only, today: remove it",
    "ebft": "supervised tuning only, today: remove it",
    "reward_model": "supervised tuning only, today: remove it",
    "pretraining_dataset": "put the set under `datasets:` with `type: completion`",
    "gptq": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "gptq_groupsize": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "gptq_model_v1": "load a plain checkpoint with load_in_4bit or load_in_8bit",
    "bnb_config_kwargs": "4-bit is NF4 with double quantization; remove it",
    "qat": _LATER,
    "max_packed_sequence_len": "set sample_packing: true, and sequence_len",
    "push_dataset_to_hub": _LATER,
    "hub_model_id": _LATER,
    "hub_strategy": _LATER,
    "lora_target_parameters": "adapters on fused experts are not built; use lora_target_modules",
    "peft_use_dora": _LATER,
    "loraplus_lr_ratio": _LATER,
    "relora_steps": _LATER,
    "neftune_noise_alpha": _LATER,
    "rope_scaling": "set it in the checkpoint's config.json",
    "model_config": "set it in the checkpoint's config.json; the router's auxiliary loss "
    "(output_router_logits) is not built: remove it",
    "overrides_of_model_config": "set it in the checkpoint's config.json",
    "s2_attention": "use attn_implementation: auto",
    "tokenizer_use_mistral_common": "use the tokenizer.json of the checkpoint",
    "dataset_exact_deduplication": _LATER,
    "curriculum_sampling": _LATER,
    "streaming": _LATER,
    "llama4_linearized_experts": "it belongs to axolotl's own Llama 4 checkpoints; remove it",
    "eta_min": "set cosine_min_lr_ratio: eta_min / learning_rate (axolotl reads no eta_min)",
    "fp8": _LATER,
    "fp8_config": _LATER,
    "fp8_enable_fsdp_float8_all_gather": _LATER,
    "float32": "set bf16: false and fp16: false",
    "nvfp4_merge_aware": _LATER,
    "dsv4_fp4_grouped_mode": _LATER,
    "quantization": "see `ft merge` and the tools of your server; remove it",
    "llmcompressor": _LATER,
    "use_onebitllms": _LATER,
    "reinit_weights": "set random_init_seed, and as base_model a folder of config.json and a "
    "tokenizer",
    "cls_model_config": _DERIVED + "; remove it",
    "num_labels": _SUPERVISED,
    "process_reward_model": _SUPERVISED,
    "center_rewards_coefficient": _SUPERVISED,
    "trainer_cls": "the loop is ft's own; remove it",
    "eval_causal_lm_metrics": "see `ft eval` for metrics; remove it",
    "do_causal_lm_eval": "see `ft eval` for metrics; remove it",
    "vllm": _SUPERVISED,
    "diffusion": _SUPERVISED,
    **dict.fromkeys(
        [
            "rl_beta",
            "dpo_beta",
            "dpo_use_logits_to_keep",
            "dpo_generate_during_eval",
            "dpo_norm_loss",
            "dpo_use_weighting",
            "dpo_label_smoothing",
            "dpo_use_liger_kernel",
            "dpo_padding_free",
            "dpo_loss_type",
            "dpo_loss_weights",
            "precompute_ref_log_probs",
            "rpo_alpha",
            "orpo_alpha",
            "simpo_gamma",
            "cpo_alpha",
            "kto_desirable_weight",
            "kto_undesirable_weight",
            "max_prompt_len",
        ],
        _SUPERVISED,
    ),
    **dict.fromkeys(["use_eaft", "eaft_alpha", "eaft_k", "noisy_embedding_alpha"], _LATER),
    "scaling_softmax": _LATER,
    "scaling_softmax_factor": _LATER,
    "scaling_softmax_bias": _LATER,
    "liger_use_token_scaling": "it weighs tokens by their own probability, another loss; remove it",
    **dict.fromkeys(["lisa_n_layers", "lisa_step_interval", "lisa_layers_attribute"], _LATER),
    **dict.fromkeys(
        [
            "relora",
            "relora_prune_ratio",
            "relora_prune_method",
            "relora_cpu_offload",
            "jagged_restart_steps",
            "jagged_restart_warmup_steps",
            "jagged_restart_anneal_steps",
        ],
        "train one adapter, of a higher lora_r; remove it",
    ),
    **dict.fromkeys(
        [
            "embedding_lr",
            "embedding_lr_scale",
            "lr_groups",
            "lr_div_factor",
            "loraplus_lr_embedding",
        ],
        "one learning_rate for all parameters; remove it",
    ),
    **dict.fromkeys(
        [
            "adam_beta3",
            "adam_epsilon2",
            "dion_lr",
            "dion_momentum",
            "dion_rank_fraction",
            "dion_rank_multiple_of",
            "qgalore_rank",
            "qgalore_update_proj_gap",
            "qgalore_scale",
            "qgalore_proj_type",
            "qgalore_proj_quant",
            "qgalore_proj_bits",
            "qgalore_proj_group_size",
            "qgalore_cos_threshold",
            "qgalore_gamma_proj",
            "qgalore_queue_size",
            "optim_target_modules",
        ],
        "it belongs to an optimizer that is not built; remove it",
    ),
    **dict.fromkeys(
        [
            "peft",
            "lora_rank_pattern",
            "lora_alpha_pattern",
            "peft_layers_to_transform",
            "peft_layers_pattern",
            "peft_layer_replication",
            "peft_init_lora_weights",
            "peft_trainable_token_indices",
            "peft_ensure_weight_tying",
            "peft_autocast_adapter_dtype",
        ],
        _LATER,
    ),
    "model_kwargs": "set it in the checkpoint's config.json",
    "mean_resizing_embeddings": "new rows are always the mean of the old ones; remove it",
    "shrink_embeddings": _LATER,
    "embeddings_skip_upcast": "what is trained is held in fp32 under autocast; remove it",
    "added_tokens_overrides": "add them with tokens or special_tokens",
    "fix_untrained_tokens": "new rows are always the mean of the old ones; remove it",
    "default_system_message": "put it into the records, or the template",
    "freeze_mm_modules": "text models only, today: remove it",
    "image_size": "text models only, today: remove it",
    "image_resize_algorithm": "text models only, today: remove it",
    "processor_kwargs": "text models only, today: remove it",
    "role_boundaries": "text models only, today: remove it",
    "shuffle_before_merging_datasets": "the merged set is shuffled; remove it",
    "dataset_shard_num": "use a slice: split: train[:25%]",
    "dataset_shard_idx": "use a slice: split: train[:25%]",
    "min_sample_len": "leave short records out of the file",
    "eval_sequence_len": "held-out records are cut at sequence_len; remove it",
    "pretrain_multipack_buffer_size": "see pretraining_dataset",
    "pretrain_multipack_attn": "see pretraining_dataset",
    "pretraining_sample_concatenation": "see pretraining_dataset",
    "streaming_multipack_buffer_size": "see streaming",
    "use_pose": _LATER,
    "pose_split_on_token_ids": _LATER,
    "pose_max_context_len": _LATER,
    "pose_num_chunks": _LATER,
    "auto_find_batch_size": "set micro_batch_size",
    "dataloader_drop_last": "every record is seen once an epoch; remove it",
    "fp32_norms": "weights of a bf16: full run are bf16 throughout; use bf16: true",
    "fp32_norm_classes": "weights of a bf16: full run are bf16 throughout; use bf16: true",
    "metric_for_best_model": "the best model is that of the lowest held-out loss; remove it",
    "greater_is_better": "the best model is that of the lowest held-out loss; remove it",
    "do_bench_eval": _LATER,
    "bench_dataset": _LATER,
    "bench_split": _LATER,
    "dynamic_checkpoint": "a signal (Ctrl-C) writes a checkpoint; remove it",
    "hub_revision": _LATER,
}

NOT_SUPPORTED_IN_DATASETS: dict[str, str] = {
    "shards": "use a slice: split: train[:25%]",
    "shards_idx": "use a slice: split: train[25%:50%]",
    "preprocess_shards": "remove it",
    "conversation": "use type: chat_template; with alpaca_chat, say type: alpaca:chatml instead",
    "field_human": "use message_property_mappings",
    "field_model": "use message_property_mappings",
    "input_transform": "use a strategy file of your own: type: ./my_strategy.py",
    "temperature": _LATER,
    "logprobs_field": _LATER,
    "trust_remote_code": "loading scripts are never run; convert the set to JSON or Parquet",
    "text_column": "use type: completion with field",
    "input_format": "use type: completion, or type as a mapping with format",
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

STANDS_FOR: dict[str, str] = {"pretraining_dataset": "datasets"}
"""Unsupported keys in whose place a required one is missing: one mistake, one message."""

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


def _has_preference_mapping(*lists: Any) -> bool:
    entries = [entry for each in lists if isinstance(each, list) for entry in each]
    types = [entry.get("type") for entry in entries if isinstance(entry, dict)]
    return any(not PREFERENCE_KEYS.isdisjoint(type) for type in types if isinstance(type, dict))


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
        ("model_quantization_config", "model_quantization_config_kwargs"),
        "a checkpoint in MXFP4 is trained as plain weights",
        "set model_quantization_config: Mxfp4Config, and model_quantization_config_kwargs: "
        "{dequantize: true}",
        lambda v: (
            (
                v.get("model_quantization_config") == "Mxfp4Config"
                and v.get("model_quantization_config_kwargs") != {"dequantize": True}
            )
            or ("model_quantization_config" not in v and v.get("model_quantization_config_kwargs"))
        ),
    ),
    Contradiction(
        ("model_quantization_config", "load_in_4bit", "load_in_8bit"),
        "model_quantization_config reads plain weights, and load_in_4bit or load_in_8bit others",
        "keep one",
        lambda v: (
            "model_quantization_config" in v
            and (v.get("load_in_4bit") is True or v.get("load_in_8bit") is True)
        ),
    ),
    Contradiction(
        ("quantize_moe_experts", "load_in_4bit"),
        "quantize_moe_experts goes with a base in 4 or 8 bits, and there is none",
        "set adapter: qlora with load_in_4bit: true, or remove it",
        lambda v: (
            v.get("quantize_moe_experts") is True
            and not v.get("load_in_4bit")
            and not v.get("load_in_8bit")
        ),
    ),
    Contradiction(
        ("unfrozen_parameters", "adapter"),
        "unfrozen_parameters are trained themselves, and beside an adapter the base is frozen",
        "remove it, or the adapter; modules trained beside one are named in lora_modules_to_save",
        lambda v: v.get("unfrozen_parameters") and v.get("adapter"),
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
        ("group_by_length", "sample_packing"),
        "sample_packing and group_by_length are both on, and packs have no length to group by",
        "turn group_by_length off",
        lambda v: v.get("sample_packing") is True and v.get("group_by_length") is True,
    ),
    Contradiction(
        ("cosine_min_lr_ratio", "lr_scheduler"),
        "cosine_min_lr_ratio belongs to the schedules cosine and rex",
        "remove it, or set lr_scheduler: cosine",
        lambda v: (
            v.get("cosine_min_lr_ratio")
            and v.get("lr_scheduler", "cosine") not in ("cosine", "rex")
        ),
    ),
    Contradiction(
        ("cosine_constant_lr_ratio", "cosine_min_lr_ratio"),
        "cosine_constant_lr_ratio says when the lowest rate is reached, and there is none",
        "set cosine_min_lr_ratio and lr_scheduler: cosine, or remove it",
        lambda v: (
            v.get("cosine_constant_lr_ratio")
            and not (v.get("cosine_min_lr_ratio") and v.get("lr_scheduler", "cosine") == "cosine")
        ),
    ),
    Contradiction(
        ("lr_quadratic_warmup", "lr_scheduler"),
        "lr_quadratic_warmup is a warm-up of the schedule cosine, which falls to zero",
        "set lr_scheduler: cosine without cosine_min_lr_ratio, or remove it",
        lambda v: (
            v.get("lr_quadratic_warmup") is True
            and (v.get("lr_scheduler", "cosine") != "cosine" or v.get("cosine_min_lr_ratio"))
        ),
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
        ("datasets",),
        "a data set's `type:` names prompt, chosen, rejected or completion: preference records, "
        "which supervised tuning does not read",
        "name field_instruction, field_input and field_output",
        lambda v: _has_preference_mapping(v.get("datasets"), v.get("test_datasets")),
    ),
    Contradiction(
        ("chat_template", "chat_template_jinja"),
        "chat_template: jinja needs the template itself",
        "give it as chat_template_jinja",
        lambda v: v.get("chat_template") == "jinja" and not v.get("chat_template_jinja"),
    ),
)

"""Keys that are an error, each with what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.spec.dialect.no_effect import DERIVED

_LATER = "not built yet; remove it"
_SUPERVISED = "supervised tuning only, today: remove it"

PREVIEWED: dict[str, str] = dict.fromkeys(
    ["rl", "reward_model", "process_reward_model"],
    "`ft preview` shows its records; to train with preferences is not built yet",
)
"""Typed keys that ask for what can be looked at and not be trained yet."""

OF_PREFERENCES = (
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
    "center_rewards_coefficient",
)
"""How preferences are trained with: an error of their own only where no key asks for that."""

NOT_SUPPORTED: dict[str, str] = {
    "use_ray": "start it without Ray: remove it",
    "ray_run_name": "start it without Ray: remove it",
    "ray_num_workers": "start it without Ray: remove it",
    "resources_per_worker": "start it without Ray: remove it",
    "trl": "supervised tuning only, today: remove it",
    "ebft": "supervised tuning only, today: remove it",
    "bnb_config_kwargs": "4-bit is NF4 with double quantization; remove it",
    "qat": _LATER,
    "max_packed_sequence_len": "set sample_packing: true, and sequence_len",
    "push_dataset_to_hub": _LATER,
    "hub_model_id": _LATER,
    "hub_strategy": _LATER,
    "peft": "for LoftQ set peft_init_lora_weights: loftq, adapter: qlora and load_in_4bit: true",
    "relora_steps": _LATER,
    "rope_scaling": "set it under overrides_of_model_config, by the name that the checkpoint's "
    "config.json has for it",
    "s2_attention": "use attn_implementation: auto",
    "dataset_exact_deduplication": _LATER,
    "curriculum_sampling": _LATER,
    **dict.fromkeys(
        ["kd_beta", "kd_normalize_topk"],
        "the divergence is forward KL over the stored tokens: remove it",
    ),
    **dict.fromkeys(
        [
            "kd_online_server_base_url",
            "kd_online_topk",
            "kd_online_server",
            "kd_online_server_model",
            "kd_online_timeout",
            "kd_online_max_new_tokens",
            "kd_temperature_min",
        ],
        "logprobs are read from the records (logprobs_field), not asked of a server: remove it",
    ),
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
    "cls_model_config": DERIVED + "; remove it",
    "trainer_cls": "the loop is ft's own; remove it",
    "eval_causal_lm_metrics": "see `ft eval` for metrics; remove it",
    "do_causal_lm_eval": "see `ft eval` for metrics; remove it",
    "vllm": _SUPERVISED,
    "diffusion": _SUPERVISED,
    **dict.fromkeys(OF_PREFERENCES, _SUPERVISED),
    **dict.fromkeys(["use_eaft", "eaft_alpha", "eaft_k"], _LATER),
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
            "peft_layer_replication",
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
    "eval_sequence_len": "held-out records are cut at sequence_len; remove it",
    "use_pose": _LATER,
    "pose_split_on_token_ids": _LATER,
    "pose_max_context_len": _LATER,
    "pose_num_chunks": _LATER,
    "auto_find_batch_size": "set micro_batch_size",
    "dataloader_drop_last": "every record is seen once an epoch; remove it",
    "fp32_norms": "weights of a bf16: full run are bf16 throughout; use bf16: true",
    "fp32_norm_classes": "weights of a bf16: full run are bf16 throughout; use bf16: true",
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
    "trust_remote_code": "loading scripts are never run; convert the set to JSON or Parquet",
    "input_format": "use type: completion, or type as a mapping with format",
}

OFF: tuple[Any, ...] = (None, False, 0, "", "none", "no", [], {}, ())
"""Values by which an unsupported key asks for nothing."""


def is_off(value: Any) -> bool:
    """Whether the value of an unsupported key asks for nothing."""
    return any(value == off and type(value) is type(off) for off in OFF)


def asks_for_preferences(values: Mapping[str, Any]) -> bool:
    """Whether a file is for preference tuning."""
    return any(values.get(key) for key in PREVIEWED)

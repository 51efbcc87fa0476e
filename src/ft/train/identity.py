"""Is the run that is asked for the one that began in this directory?

Every key is one of three kinds. Free keys say how often to report, evaluate or save, when to stop,
and where things are: they may change between two commands. Fixed ones say which tensors a
checkpoint holds, so nothing can go on without them. Asked keys shape the result: they stay as they
were unless they are named on the command line, `--override learning_rate`. A new key is written
down here as one of them; a test sees to it.

Two names beside the keys of the YAML: `data`, the records as tokens, and `num_processes`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ft.runtime import Problem, RunDirectory, UserError
from ft.spec import RunSpec, flat_keys, load_spec
from ft.spec.nearest import nearest
from ft.spec.runspec import TrackerSpec

DATA, NUM_PROCESSES = "data", "num_processes"

FREE_KEYS = frozenset(
    {
        "output_dir",
        "logging_steps",
        "save_steps",
        "saves_per_epoch",
        "save_strategy",
        "save_total_limit",
        "eval_steps",
        "evals_per_epoch",
        "eval_strategy",
        "eval_batch_size",
        "eval_sample_packing",
        "early_stopping_patience",
        "max_drop",
        "max_time",
        "loss_watchdog_threshold",
        "loss_watchdog_patience",
        "dataset_prepared_path",
        "dataset_num_proc",
        "ddp_timeout",
        "gradient_checkpointing",
        *TrackerSpec.model_fields,
    }
)
FIXED_KEYS = frozenset(
    {
        "base_model",
        "revision_of_model",
        "random_init_seed",
        "special_tokens",
        "tokens",
        "optimizer",
        "adapter",
        "lora_r",
        "lora_target_modules",
        "lora_target_parameters",
        "lora_target_linear",
        "lora_rank_pattern",
        "lora_fan_in_fan_out",
        "lora_modules_to_save",
        "lora_model_dir",
        "loraplus_lr_ratio",
        "loraplus_lr_embedding",
        "peft_use_dora",
        "peft_init_lora_weights",
        "peft_layers_to_transform",
        "peft_layers_pattern",
        "peft_trainable_token_indices",
        "init_r",
        "feedforward_modules",
        "projection_prng_key",
        "oft_block_size",
        "boft_block_size",
        "boft_n_butterfly_factor",
        "decompose_factor",
        "n_frequency",
        "num_virtual_tokens",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "prefix_projection",
        "encoder_hidden_size",
        "encoder_reparameterization_type",
        "encoder_num_layers",
        "adapter_len",
        "adapter_layers",
        "unfrozen_parameters",
        "task_type",
        "problem_type",
        "id2label",
        "num_labels",
        "ignore_mismatched_sizes",
    }
)
ASKED_KEYS = frozenset(
    {
        # the model
        "tokenizer_config",
        "tokenizer_use_mistral_common",
        "overrides_of_model_config",
        "load_in_4bit",
        "load_in_8bit",
        "model_quantization_config",
        "model_quantization_config_kwargs",
        "quantize_moe_experts",
        "llama4_linearized_experts",
        "reinit_weights",
        "attn_implementation",
        "bf16",
        "fp16",
        "tf32",
        "lora_alpha",
        "lora_dropout",
        "peft_use_rslora",
        "lora_alpha_pattern",
        "tinit",
        "tfinal",
        "deltaT",
        "orth_reg_weight",
        "d_initial",
        "encoder_dropout",
        # the data
        "datasets",
        "test_datasets",
        "val_set_size",
        "sequence_len",
        "min_sample_len",
        "train_on_inputs",
        "excess_length_strategy",
        "shuffle_merged_datasets",
        "mix_strategy",
        "interleave_probs",
        "streaming",
        "streaming_multipack_buffer_size",
        "chat_template",
        "chat_template_jinja",
        "chat_template_kwargs",
        "eot_tokens",
        "sample_packing",
        "group_by_length",
        # what is learned from it, and how
        "rl",
        "reward_model",
        "process_reward_model",
        "neftune_noise_alpha",
        "label_smoothing_factor",
        "kd_trainer",
        "kd_alpha",
        "kd_ce_alpha",
        "kd_temperature",
        "micro_batch_size",
        "gradient_accumulation_steps",
        "num_epochs",
        "max_steps",
        "learning_rate",
        "optim_args",
        "lr_scheduler",
        "lr_scheduler_kwargs",
        "cosine_min_lr_ratio",
        "cosine_constant_lr_ratio",
        "lr_quadratic_warmup",
        "warmup_steps",
        "warmup_ratio",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "torch_compile",
        "seed",
        "deterministic",
        "class_weights",
        "truncation_side",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
    }
)


@dataclass(frozen=True)
class Difference:
    """A key whose value is another one than when the run began."""

    key: str
    then: Any
    now: Any

    @property
    def is_fixed(self) -> bool:
        """Whether no option lifts it."""
        return self.key in FIXED_KEYS


def num_processes() -> int:
    """How many processes a launcher started for this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def differences(run: RunDirectory, spec: RunSpec) -> list[Difference]:
    """What differs between the run in the directory and the one asked for, data aside."""
    before = flat_keys(load_spec(run.resolved_spec).spec)
    now = flat_keys(spec)
    found = [
        Difference(key, before.get(key), now[key])
        for key in now
        if key not in FREE_KEYS and before.get(key) != now[key]
    ]
    processes_then = run.read_run().get(NUM_PROCESSES, 1)
    if processes_then != num_processes():
        found.append(Difference(NUM_PROCESSES, processes_then, num_processes()))
    return found


def require_same_run(
    run: RunDirectory, found: Iterable[Difference], overrides: Collection[str]
) -> None:
    """Refuses to go on with a run as if it were another one.

    Args:
        run: Where the run is.
        found: What differs.
        overrides: Names that may differ: the user said so.

    Raises:
        UserError: a table of what differs, then and now, and what lifts it.
    """
    refused = [each for each in found if each.is_fixed or each.key not in overrides]
    if not refused:
        return
    rows = [("", "then", "now", "")]
    rows += [(d.key, _short(d.then), _short(d.now), _remedy(d)) for d in refused]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    lines = [line.rstrip() for line in lines]
    lines.append("set it back, set another --output-dir, or start anew with --overwrite")
    names = ", ".join(each.key for each in refused)
    what = f"the run here began otherwise: {names}"
    raise UserError(Problem(what, str(run.path), fix="\n".join(lines)))


def require_known(overrides: Iterable[str], spec: RunSpec) -> None:
    """Refuses an --override of something that is no key.

    Raises:
        UserError: with the key that was probably meant.
    """
    known = {*flat_keys(spec), DATA, NUM_PROCESSES}
    for name in overrides:
        if name not in known:
            meant = nearest(name, known)
            fix = (
                f"did you mean {meant}?" if meant else f"a key of the YAML, {DATA}, {NUM_PROCESSES}"
            )
            raise UserError(Problem(f"unknown key {name!r}", "--override", fix=fix))


def _remedy(difference: Difference) -> str:
    if difference.is_fixed:
        return "fixed: a checkpoint fits no other"
    return f"--override {difference.key}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."

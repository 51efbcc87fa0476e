"""How it learns, how it is measured, and what is left behind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ft.spec.sections.section import (
    Arguments,
    Count,
    Decay,
    Duration,
    Interval,
    Section,
    Share,
    WarmUp,
)

Optimizers = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_4bit",
    "adamw_bnb_8bit",
    "adamw_8bit",
    "paged_adamw",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_8bit",
    "paged_ademamix_32bit",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
    "rmsprop",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "adafactor",
    "adagrad",
    "sgd",
]
Schedules = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "one_cycle",
    "rex",
]


class TrainingSpec(Section):
    """How it learns."""

    micro_batch_size: Count = Field(
        1, description="Records (or packs) in one forward pass, a process."
    )
    gradient_accumulation_steps: Count = Field(1, description="Forward passes a step.")
    sample_packing: bool = Field(
        False,
        description="Several records in each row, in packs of sequence_len tokens; none sees "
        "another. A step then holds more records, so an epoch has fewer steps.",
    )
    group_by_length: bool = Field(
        False, description="Records of similar length in the same step: fewer pad tokens."
    )
    num_epochs: Annotated[float, Field(gt=0)] = Field(1.0, description="Passes over the data.")
    max_steps: Count | None = Field(None, description="Stop after so many optimizer steps.")
    max_time: Duration | None = Field(
        None,
        description="Save and leave after so long (2h, 90m, 1h30m, 45s), counted from the start of "
        "the command, as if by SIGTERM: exit 143, and the same command goes on.",
    )
    loss_watchdog_threshold: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Stop a run whose loss stays above this; default: above three times the lowest "
        "of its first 10 steps, plus 2.",
    )
    loss_watchdog_patience: Count | None = Field(
        None,
        description="Steps in a row above loss_watchdog_threshold that stop the run; default 3, "
        "without a threshold 20.",
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="Peak learning rate.")
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] | None = Field(
        None, description="LoRA+: learning rate of LoRA's B, as a multiple of learning_rate."
    )
    loraplus_lr_embedding: Annotated[float, Field(gt=0)] | None = Field(
        None, description="LoRA+: learning rate of adapted embeddings; default 1e-6."
    )
    optimizer: Optimizers = Field("adamw_torch_fused", description="Optimizer.")
    optim_args: Arguments = Field(
        default_factory=dict, description="Further arguments of the optimizer, by its own names."
    )
    lr_scheduler: Schedules = Field("cosine", description="Course of the learning rate.")
    lr_scheduler_kwargs: Arguments = Field(
        default_factory=dict, description="Further arguments of the schedule, by its own names."
    )
    cosine_min_lr_ratio: Share | None = Field(
        None, description="cosine, rex: the lowest rate, as a share of learning_rate."
    )
    cosine_constant_lr_ratio: Share | None = Field(
        None, description="cosine: the lowest rate is reached after this share of all steps."
    )
    lr_quadratic_warmup: bool = Field(
        False, description="cosine: the warm-up rises with the square of the step."
    )
    warmup_steps: WarmUp | None = Field(
        None, description="Warm-up, steps; below 1: a share of all steps."
    )
    warmup_ratio: Share | None = Field(None, description="Warm-up, share of all steps.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Decoupled decay.")
    adam_beta1: Decay = Field(0.9, description="Decay of the first moment.")
    adam_beta2: Decay = Field(0.999, description="Decay of the second moment.")
    adam_epsilon: Annotated[float, Field(gt=0)] = Field(1e-8, description="Adam's epsilon.")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="Clip the gradient to this norm; 0 = never."
    )
    neftune_noise_alpha: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="NEFTune: noise of this strength on the embeddings while it trains, scaled by "
        "each record's own length; 5 to 15 are usual, 0 = none.",
    )
    label_smoothing_factor: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0,
        description="Share of each target that is spread evenly over the vocabulary while it "
        "trains; the held-out loss stays that of the true token.",
    )
    kd_trainer: bool = Field(
        False,
        description="Distillation: learn from a teacher's stored logprobs (logprobs_field of the "
        "data sets) beside the answers.",
    )
    kd_alpha: Annotated[float, Field(ge=0.0)] = Field(
        0.5, description="kd_trainer: weight of the divergence from the teacher."
    )
    kd_ce_alpha: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="kd_trainer: weight of the cross-entropy; default 1 - kd_alpha."
    )
    kd_temperature: Annotated[float, Field(gt=0.0)] = Field(
        1.0, description="kd_trainer: temperature of both distributions."
    )
    gradient_checkpointing: bool | Literal["always"] | None = Field(
        None,
        description="Recompute activations in the backward pass: less memory, more time, the same "
        "results. true, or nothing: in as many layers as memory asks for, which may be none; "
        "always: in every layer; false: in none.",
    )
    torch_compile: bool | Literal["auto"] = Field(
        "auto",
        description="Compile the decoder layers, once for all of them; auto = on CUDA. The "
        "compiled code is kept for later runs.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        42, description="Seed of order and dropout."
    )
    deterministic: bool = Field(
        False,
        description="CUDA gives the same bits each time, resumed or not; some kernels are slower. "
        "A CPU does so anyhow.",
    )
    ddp_timeout: Count = Field(
        600, description="Several processes: seconds that one waits for another before it fails."
    )


class EvaluationSpec(Section):
    """How it is measured while it learns."""

    eval_steps: Interval | None = Field(
        None, description="Evaluate every N steps; below 1: a share of all steps."
    )
    evals_per_epoch: Count | None = Field(None, description="Evaluations an epoch.")
    eval_strategy: Literal["steps", "epoch", "no"] | None = Field(
        None, description="When to evaluate."
    )
    eval_batch_size: Count | None = Field(
        None, description="Records a forward pass in evaluation; default micro_batch_size."
    )
    eval_sample_packing: bool | None = Field(
        None, description="Pack the held-out records too; default sample_packing. Same loss."
    )
    early_stopping_patience: Count | None = Field(
        None, description="Stop after so many evaluations without a better loss."
    )
    load_best_model_at_end: bool = Field(
        False, description="End with the weights of the best evaluation."
    )
    metric_for_best_model: str | None = Field(
        None,
        description="What the best evaluation is best at; default the held-out loss. With SEQ_CLS "
        "also accuracy, f1_macro, f1_micro, mse, mae, pearson or r2; eval_ may stand before it.",
    )
    greater_is_better: bool | None = Field(
        None, description="Which way metric_for_best_model is better; default: as it is measured."
    )


class OutputSpec(Section):
    """What is left behind."""

    output_dir: str = Field("./model-out", description="The run's folder.")
    logging_steps: Count = Field(1, description="Report every N steps.")
    save_steps: Interval | None = Field(
        None, description="Checkpoint every N steps; below 1: a share of all steps."
    )
    saves_per_epoch: Count | None = Field(None, description="Checkpoints an epoch.")
    save_strategy: Literal["steps", "epoch", "no"] | None = Field(
        None, description="When to write checkpoints."
    )
    save_total_limit: Count | None = Field(
        4, description="Checkpoints to keep (the newest; the best one is kept as well)."
    )

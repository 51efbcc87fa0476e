"""The frozen, nested, typed form of a YAML file: the only thing that the rest of `ft` sees.

Field names are the dialect's keys, so one name runs from the YAML to the code; the sections group
what is used together and say where each part of the spec stops:

    RunSpec
    |-- model       what is loaded          -> ft.model
    |-- precision   in which number formats -> ft.model, ft.train
    |-- adapter     what is added to it     -> ft.model
    |-- data        what it learns from     -> ft.data
    |-- training    how it learns           -> ft.train
    |-- evaluation  how it is measured      -> ft.train, ft.evaluate
    `-- output      what is left behind     -> ft.train

A field's description is the key's documentation. This file knows no YAML, no old names and no
positions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from ft.spec.chat_templates import checked_chat_template
from ft.spec.duration import checked_duration

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Names = tuple[str, ...]


def _whole_from_one_up(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("a whole number of steps, or a share below 1")
    return value


Interval = Annotated[float, Field(gt=0), AfterValidator(_whole_from_one_up)]
"""Every N steps; below 1: a share of all steps."""

ChatTemplateName = Annotated[str, AfterValidator(checked_chat_template)]

Duration = Annotated[str, BeforeValidator(checked_duration)]
"""2h, 90m, 1h30m, 45s."""

WarmUp = Annotated[float, Field(ge=0), AfterValidator(_whole_from_one_up)]
"""Steps; below 1: a share of all steps."""

Arguments = dict[str, bool | int | float | str]
"""Handed on by name."""

Attentions = Literal[
    "auto",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flash_attention_torch",
    "flex_attention",
    "xformers",
    "sage",
    "fp8",
    "varlen",
    "sdpa",
    "eager",
]
HubKernel = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+(@[\w.-]+)?(:[\w.-]+)?$")]
"""A kernel repository of the hub: owner/name, with a revision or a function of it."""

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


class Section(BaseModel):
    """A frozen group of keys; an unknown key is an error, a wrong type too ("16" is no count)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SpecialTokens(Section):
    """Special tokens by role; one that the tokenizer lacks is added and its embedding trained."""

    bos_token: str | None = Field(None, description="Token at the start of a text.")
    eos_token: str | None = Field(None, description="Token at the end of an answer.")
    unk_token: str | None = Field(None, description="Token for what the vocabulary lacks.")
    pad_token: str | None = Field(None, description="Token that fills rows up; never trained.")
    additional_special_tokens: Names = Field((), description="Further special tokens.")


class ModelSpec(Section):
    """What is loaded."""

    base_model: str = Field(description="Base model: a hub name or a local folder.")
    revision_of_model: str | None = Field(
        None, description="Branch, tag or commit of the base model on the hub."
    )
    tokenizer_config: str | None = Field(
        None, description="Hub name or folder of the tokenizer, if it is not the base model's."
    )
    random_init_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description="Begin with random weights drawn from this seed; base_model is then a folder "
        "of config.json and a tokenizer.",
    )
    load_in_4bit: bool = Field(
        False, description="Hold the frozen base in 4 bits (NF4, double quantization)."
    )
    load_in_8bit: bool = Field(False, description="Hold the frozen base in 8 bits (LLM.int8).")
    model_quantization_config: Literal["Mxfp4Config"] | None = Field(
        None, description="The checkpoint's own format, MXFP4 (gpt-oss), read as plain weights."
    )
    model_quantization_config_kwargs: dict[str, bool] = Field(
        default_factory=dict, description="dequantize: true; goes with model_quantization_config."
    )
    quantize_moe_experts: bool = Field(
        False,
        description="Hold the experts of a mixture in 4 or 8 bits too. They are read plain first.",
    )
    attn_implementation: Attentions | HubKernel = Field(
        "auto", description="Attention backend; what is missing falls back, with a word."
    )
    special_tokens: SpecialTokens = Field(
        SpecialTokens(), description="Special tokens to set on the tokenizer."
    )
    tokens: Names = Field((), description="Further tokens to add to the vocabulary.")


class PrecisionSpec(Section):
    """In which number formats it computes."""

    bf16: bool | Literal["auto", "full"] | None = Field(
        None, description="bfloat16: auto = where the hardware has it; full = weights too."
    )
    fp16: bool | None = Field(None, description="float16 with a loss scaler.")
    tf32: bool | Literal["auto"] | None = Field(
        None, description="TensorFloat-32 products for fp32 tensors on CUDA."
    )


class AdapterSpec(Section):
    """What is added to the frozen base; no adapter means that all parameters are trained."""

    adapter: Literal["lora", "qlora"] | None = Field(
        None, description="lora, qlora (= lora on a 4-bit base), or nothing: full fine-tuning."
    )
    lora_r: Count = Field(16, description="Rank of the update matrices.")
    lora_alpha: float = Field(16, gt=0, description="Scale of the update: alpha / r.")
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Dropout on the adapter's input."
    )
    lora_target_modules: Names = Field(
        (),
        description="Names of the linear layers that get an adapter, or a regular expression that "
        "matches their whole paths.",
    )
    lora_target_linear: bool | None = Field(
        None, description="An adapter on every linear layer but the output head."
    )
    peft_use_rslora: bool = Field(False, description="Scale of the update: alpha / sqrt(r).")
    lora_fan_in_fan_out: bool | None = Field(
        None, description="Weights are stored transposed (GPT-2's Conv1D)."
    )
    lora_modules_to_save: Names = Field(
        (), description="Modules trained and saved whole beside the adapter."
    )
    lora_model_dir: str | None = Field(None, description="Adapter folder to go on from.")
    unfrozen_parameters: Names = Field(
        (),
        description="Without an adapter: train these parameters alone; each is matched as a "
        "regular expression from a name's beginning.",
    )


class MappingLayout(Section):
    """`type:` as a mapping: a layout of the user's own, without code."""

    field_system: str = Field("system", description="Field of the system text.")
    field_instruction: str = Field("instruction", description="Field of the question.")
    field_input: str = Field("input", description="Field of what goes with the question.")
    field_output: str = Field("output", description="Field of the answer, which is trained.")
    system_prompt: str = Field("", description="System text of records that have none.")
    system_format: str = Field("{system}", description="How the system text is written.")
    format: str = Field("{instruction} {input} ", description="The prompt, if there is an input.")
    no_input_format: str = Field("{instruction} ", description="The prompt, if there is no input.")


class PreferenceMapping(Section):
    """`type:` as a mapping for preference records: two answers, or one that is judged (kto)."""

    field_system: str = Field("system", description="Field of the system text.")
    field_prompt: str = Field("prompt", description="Field of the prompt.")
    field_chosen: str = Field("chosen", description="Field of the better answer.")
    field_rejected: str = Field("rejected", description="Field of the worse answer.")
    field_completion: str = Field("completion", description="kto: field of the judged answer.")
    field_label: str = Field("label", description="kto: field that says if the answer is good.")
    prompt_format: str = Field("{prompt}", description="The prompt; {system} is empty if missing.")
    chosen_format: str = Field("{chosen}", description="How the better answer is written.")
    rejected_format: str = Field("{rejected}", description="How the worse answer is written.")
    completion_format: str = Field("{completion}", description="kto: how the answer is written.")


PREFERENCE_KEYS = frozenset(PreferenceMapping.model_fields) - frozenset(MappingLayout.model_fields)
"""Keys by which a `type:` says that it lays out preference records."""


def _kind_of_mapping(value: Any) -> str:
    """Which mapping a `type:` is; keys that both know leave it with the supervised one."""
    if isinstance(value, Section):
        return type(value).__name__
    is_preference = isinstance(value, dict) and not PREFERENCE_KEYS.isdisjoint(value)
    return (PreferenceMapping if is_preference else MappingLayout).__name__


Mappings = Annotated[
    Annotated[MappingLayout, Tag("MappingLayout")]
    | Annotated[PreferenceMapping, Tag("PreferenceMapping")],
    Discriminator(_kind_of_mapping),
]


class DatasetSpec(Section):
    """One entry of `datasets:` or `test_datasets:`."""

    path: str = Field(description="A file, a folder, or a hub data set's name.")
    type: str | Mappings | None = Field(
        None, description="The prompt strategy; nothing for records that hold input_ids."
    )
    name: str | None = Field(None, description="Configuration of a hub data set.")
    split: str | None = Field(None, description="Split, with an optional slice: train[:100].")
    data_files: str | Names | dict[str, str | Names] | None = Field(
        None, description="Files within the folder or repository."
    )
    ds_type: Literal["json", "csv", "parquet", "arrow", "text"] | None = Field(
        None, description="File format, where the ending does not tell."
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    field: str | None = Field(None, description="completion: the field that holds the text.")
    field_messages: str = Field("messages", description="chat_template: field of the turns.")
    field_system: str = Field("system", description="chat_template: field of a system text.")
    field_tools: str = Field(
        "tools", description="chat_template: field of the tools, a list or its JSON."
    )
    field_thinking: str = Field(
        "reasoning_content", description="chat_template: property of a turn's reasoning."
    )
    template_thinking_key: str = Field(
        "reasoning_content", description="chat_template: the reasoning's name in the template."
    )
    split_thinking: bool = Field(
        False, description="chat_template: take reasoning tags in an answer for its reasoning."
    )
    drop_system_message: bool = Field(
        False, description="chat_template: leave the system text out."
    )
    message_property_mappings: dict[str, str] = Field(
        default_factory=dict, description="chat_template: our property -> the record's name."
    )
    message_field_training: str | None = Field(
        None, description="chat_template: property that says whether a turn is trained."
    )
    message_field_training_detail: str | None = Field(
        None,
        description="chat_template: property that holds the spans of a turn that are trained: "
        "[{begin_offset, end_offset, train}], offsets in characters, both inclusive.",
    )
    roles: dict[str, Names] = Field(
        default_factory=dict, description="chat_template: role -> the names it has in records."
    )
    roles_to_train: Names = Field(
        ("assistant",),
        description="chat_template: trained roles; [] = the last turn of each record alone, "
        "unless turns say themselves what is trained.",
    )
    train_on_eos: Literal["turn", "all", "last", "none"] = Field(
        "turn",
        description="chat_template: which end tokens are trained: those of trained turns, all, "
        "the last one, none.",
    )
    train_on_eot: Literal["turn", "all", "last", "none"] | None = Field(
        None, description="chat_template: the same for eot_tokens; default train_on_eos."
    )
    chat_template: ChatTemplateName | None = Field(
        None, description="Chat template of this data set."
    )
    chat_template_jinja: str | None = Field(
        None, description="Text or file of this data set's own chat template."
    )
    field_chosen: str = Field(
        "chosen", description="dpo chat_template: field of the better answer."
    )
    field_rejected: str = Field(
        "rejected", description="dpo chat_template: field of the worse answer."
    )
    step_separator: str = Field(
        "\n", description="stepwise_supervised: written behind every step; its end is labeled."
    )
    max_completion_length: Count | None = Field(
        None, description="stepwise_supervised: tokens that all steps together may have."
    )
    train_on_last_step_only: bool = Field(
        False, description="stepwise_supervised: only the last step's label counts."
    )


class DataSpec(Section):
    """What it learns from."""

    datasets: Annotated[tuple[DatasetSpec, ...], Field(min_length=1)] = Field(
        description="The data sets; all are read, merged and shuffled."
    )
    test_datasets: tuple[DatasetSpec, ...] = Field((), description="Held-out data sets.")
    val_set_size: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Held out of `datasets`: a share, or a number of records if over 1."
    )
    sequence_len: Count = Field(512, description="Longest record, in tokens.")
    train_on_inputs: bool = Field(False, description="Train on the prompt too.")
    excess_length_strategy: Literal["drop", "truncate", "raise"] | None = Field(
        None, description="What becomes of records longer than sequence_len."
    )
    max_drop: Share = Field(
        0.01, description="Share of records that may be lost without your consent."
    )
    dataset_prepared_path: str | None = Field(
        None,
        description="Folder of the tokenized cache; default ft/tokenized in the user's cache "
        "folder ($XDG_CACHE_HOME, or ~/.cache).",
    )
    dataset_num_proc: Count | None = Field(
        None, description="Processes that tokenize; default one a core, where there is much to do."
    )
    shuffle_merged_datasets: bool = Field(True, description="Shuffle once, before the split.")
    chat_template: ChatTemplateName = Field(
        "tokenizer_default",
        description="tokenizer_default, the name of a template, jinja with chat_template_jinja, "
        "or tokenizer_default_fallback_NAME.",
    )
    chat_template_jinja: str | None = Field(
        None, description="Text or file of a chat template of your own."
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Variables for the chat template: enable_thinking, ..."
    )
    eot_tokens: Names = Field((), description="End-of-turn tokens, if they are not the eos token.")


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
    gradient_checkpointing: bool | Literal["always"] = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        42, description="Seed of order and dropout."
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


class RunSpec(Section):
    """One run, completely described."""

    model: ModelSpec
    precision: PrecisionSpec
    adapter: AdapterSpec
    data: DataSpec
    training: TrainingSpec
    evaluation: EvaluationSpec
    output: OutputSpec


def flat_keys(spec: RunSpec) -> dict[str, Any]:
    """The spec as the dialect's flat mapping, defaults included: what resolved.yml holds."""
    nested = spec.model_dump(mode="json")
    return {key: value for section in nested.values() for key, value in section.items()}


def sections_of_keys() -> dict[str, str]:
    """Which section each top-level key of the dialect belongs to."""
    return {
        key: section
        for section, field in RunSpec.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }

"""What it learns from: data sets, and how their records are laid out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from ft.spec.sections.labels import LabelSpec
from ft.spec.sections.section import ChatTemplateName, Count, Names, Section, Share


def _numbers(value: Any) -> Any:
    """`0.7,0.3`, as LLaMA-Factory has it, is a list as well."""
    if isinstance(value, str):
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            raise ValueError("a list of numbers") from None
    return tuple(value) if isinstance(value, list) else value


_Weights = tuple[Annotated[float, Field(gt=0)], ...]
Probabilities = Annotated[
    _Weights, BeforeValidator(_numbers, json_schema_input_type=_Weights | str)
]


class MappingLayout(Section):
    """`type:` as a mapping: a layout of the user's own, without code."""

    field_system: str = Field("system", description="Field of the system text.")
    field_instruction: str = Field("instruction", description="Field of the question.")
    field_input: str = Field("input", description="Field of what goes with the question.")
    field_output: str = Field("output", description="Field of the answer, which is trained.")
    system_prompt: str = Field("", description="System text of records that have none.")
    system_format: str = Field("{system}", description="How the system text is written.")
    format: str = Field(
        "{instruction} {input} ",
        description="The prompt, if there is an input; or the whole text, with {output} for the "
        "answer. An end token is put behind it, if it is not there.",
    )
    no_input_format: str = Field("{instruction} ", description="The same, if there is no input.")


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
    max_line_bytes: Count = Field(
        32_000_000,
        description="JSON lines on this machine: a longer line is left out before it is decoded, "
        "and counted as lost. A record of this size is millions of tokens, and each of them takes "
        "some hundred bytes while it is made.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    field: str | None = Field(
        None, description="completion, classification: the field that holds the text; default text."
    )
    field_text_pair: str | None = Field(
        None, description="classification: field of a second text, which is read beside the first."
    )
    field_label: str = Field(
        "label", description="classification: field of the label: a name, a number, or a list."
    )
    field_weight: str | None = Field(
        None,
        description="Field that says how much a record counts: its tokens' loss is multiplied by "
        "it, and the mean is over weights. 1 is as usual, 0 leaves the record out.",
    )
    logprobs_field: str | None = Field(
        None,
        description="kd_trainer: field of a teacher's logprobs, one entry a trained token, or one "
        "for every token: [[id, logprob], ...].",
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(
        1.0, description="kd_trainer: temperature at which the logprobs were taken."
    )
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


class DataSpec(LabelSpec):
    """What it learns from."""

    datasets: Annotated[tuple[DatasetSpec, ...], Field(min_length=1)] = Field(
        description="The data sets; all are read, merged and shuffled."
    )
    test_datasets: tuple[DatasetSpec, ...] = Field((), description="Held-out data sets.")
    val_set_size: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Held out of `datasets`: a share, or a number of records if over 1."
    )
    sequence_len: Count = Field(512, description="Longest record, in tokens.")
    min_sample_len: Annotated[int, Field(ge=2)] = Field(
        2, description="Shortest record, in tokens; shorter ones are left out."
    )
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
    shuffle_merged_datasets: bool = Field(
        True, description="Shuffle once, before the split; a stream window by window."
    )
    mix_strategy: Literal["concat", "interleave_under", "interleave_over"] = Field(
        "concat",
        description="concat: an epoch is every record once. interleave_under, interleave_over: it "
        "is drawn from the data sets by interleave_probs, until the first one, or the last one, is "
        "used up; the same records each epoch. Of a stream chunks are drawn.",
    )
    interleave_probs: Probabilities | None = Field(
        None, description="Weight of each data set, in order; default: they take turns."
    )
    streaming: bool = Field(
        False,
        description="Read the records of `datasets` as they come, and keep none: for sets larger "
        "than the disk. Needs max_steps.",
    )
    streaming_multipack_buffer_size: Count = Field(
        10_000,
        description="streaming: records in a window, which are shuffled, grouped and packed "
        "together. Memory holds their tokens.",
    )
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


class PreferenceSpec(Section):
    """Whether it learns from answers that people judged, and how; one of the keys at most."""

    rl: Literal["dpo", "ipo", "simpo", "orpo", "kto"] | None = Field(
        None, description="Learn from pairs of answers, or from single ones that are judged (kto)."
    )
    reward_model: bool = Field(
        False, description="Train a model that scores answers, on pairs of them."
    )
    process_reward_model: bool = Field(
        False, description="Train a model that judges an answer step by step."
    )

    @property
    def objective(self) -> str | None:
        """The value of `rl`, or the name of the other key that is on; None: supervised tuning."""
        kinds = {
            "reward_model": self.reward_model,
            "process_reward_model": self.process_reward_model,
        }
        return self.rl or next((kind for kind, is_asked in kinds.items() if is_asked), None)

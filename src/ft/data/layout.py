"""What a strategy is: it renders records, and knows its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ft.data.segments import RecordError, Rendered
from ft.spec.classification import Classification
from ft.spec.runspec import DataSpec

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LayoutFields:
    """Which fields a layout reads.

    Attributes:
        prompt: Required, and not trained.
        response: Trained; blank when a model is asked.
        optional: Read where they are there.
        default: The field that the text of `ft infer --prompt TEXT` fills.
        response_prefix: Trained in front of the response, stripped from what is shown.
    """

    prompt: tuple[str, ...] = ()
    response: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    default: str | None = None
    response_prefix: str = ""


class Strategy(Protocol):
    """Turns a record into segments (or tokens).

    `fields` is None where only the strategy's own code knows them; then they are found by trying.
    """

    @property
    def fields(self) -> LayoutFields | None:
        """The fields that the strategy reads."""

    def render(self, record: Fields) -> Rendered:
        """The record as it is trained.

        Raises:
            RecordError: The record lacks something that the layout needs.
        """

    def render_prompt(self, record: Fields) -> Rendered:
        """The record as the model is asked: what stands before the first trained token counts."""


MIN_TOKENS = 2
"""A shorter row has no token with another one before it: nothing to predict."""


@dataclass(frozen=True)
class LabelOptions:
    """How labeled texts are laid out.

    Attributes:
        task: The labels that there are.
        truncation_side: Which end a long text loses, left or right.
        cuts_long: A text longer than `sequence_len` is cut, not left out.
    """

    task: Classification
    truncation_side: str
    cuts_long: bool

    @classmethod
    def of(cls, spec: DataSpec) -> LabelOptions | None:
        """The options that a data section holds, once its labels are found; None without labels."""
        if not spec.is_classification:
            return None
        assert spec.problem_type is not None, "with_labels_found comes first"
        cuts_long = spec.excess_length_strategy in (None, "truncate")
        task = Classification(spec.problem_type, spec.id2label)
        return cls(task, spec.truncation_side, cuts_long)


@dataclass(frozen=True)
class StrategyOptions:
    """The keys beside `datasets:` that decide how records are laid out."""

    sequence_len: int
    train_on_inputs: bool = False
    chat_template: str = "tokenizer_default"
    chat_template_jinja: str | None = None
    eot_tokens: tuple[str, ...] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    min_sample_len: int = MIN_TOKENS
    labels: LabelOptions | None = None

    @classmethod
    def of(cls, spec: DataSpec) -> StrategyOptions:
        """The options that a run's data section holds."""
        return cls(
            spec.sequence_len,
            spec.train_on_inputs,
            spec.chat_template,
            spec.chat_template_jinja,
            spec.eot_tokens,
            spec.chat_template_kwargs,
            spec.min_sample_len,
            LabelOptions.of(spec),
        )


def text_field(record: Fields, name: str) -> str:
    """A required field's text.

    Raises:
        RecordError: It is missing, null, or no text.
    """
    if name not in record:
        raise RecordError(
            f"missing field {name!r}", f"the record has {', '.join(map(str, record))}"
        )
    value = record[name]
    if value is None:
        raise RecordError(f"field {name!r} is null")
    if not isinstance(value, str):
        raise RecordError(
            f"field {name!r} is no text", f"got {type(value).__name__}: {value!r}"[:200]
        )
    return value


def optional_text_field(record: Fields, name: str) -> str:
    """An optional field's text; empty if it is missing or null.

    Raises:
        RecordError: It is there, and no text.
    """
    return "" if record.get(name) is None else text_field(record, name)


def written_field(record: Fields, name: str) -> str:
    """A required field's text; a number or a truth value is written out.

    Raises:
        RecordError: It is missing, null, or a list or an object.
    """
    value = record.get(name)
    if isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"field {name!r} is {value}, which is no number")
    return str(value) if isinstance(value, int | float) else text_field(record, name)


def optional_written_field(record: Fields, name: str) -> str:
    """An optional field as `written_field` writes it; empty if it is missing, null, false or 0.

    Raises:
        RecordError: It is a list or an object that holds something.
    """
    return written_field(record, name) if record.get(name) else ""


def list_field(record: Fields, name: str) -> Sequence[Any]:
    """A required field that is a list.

    Raises:
        RecordError: It is missing, null, or something else.
    """
    values = record.get(name)
    if values is None:
        text_field(record, name)  # says what is wrong
    if not isinstance(values, list | tuple):
        raise RecordError(f"field {name!r} is no list", repr(values)[:200])
    return values


def objects_field(record: Fields, name: str) -> Sequence[Fields]:
    """A required field that is a list of objects.

    Raises:
        RecordError: It is missing, null, or something else.
    """
    values = list_field(record, name)
    for value in values:
        if not isinstance(value, Mapping):
            raise RecordError(
                f"field {name!r} holds something else than objects", repr(value)[:200]
            )
    return values

"""What a strategy is: it renders records, and knows its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ft.data.segments import RecordError, Rendered
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


@dataclass(frozen=True)
class StrategyOptions:
    """The keys beside `datasets:` that decide how records are laid out."""

    sequence_len: int
    train_on_inputs: bool = False
    chat_template: str = "tokenizer_default"
    chat_template_jinja: str | None = None
    eot_tokens: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: DataSpec) -> StrategyOptions:
        """The options that a run's data section holds."""
        return cls(
            spec.sequence_len,
            spec.train_on_inputs,
            spec.chat_template,
            spec.chat_template_jinja,
            spec.eot_tokens,
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

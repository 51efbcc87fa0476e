"""A prompt and its response, tokenized separately: what most layouts are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ft.data.layout import (
    Fields,
    LayoutFields,
    Strategy,
    StrategyOptions,
    optional_text_field,
    optional_written_field,
    text_field,
    written_field,
)
from ft.data.segments import Segment, Separate
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Part = Callable[[Fields], str]
"""A piece of what is rendered, made of a record."""


@dataclass(frozen=True)
class BuiltIn:
    """A registered layout: how it is made for a data set."""

    build: Callable[[DatasetSpec, StrategyOptions, PreTrainedTokenizerBase], Strategy]


@dataclass(frozen=True)
class PairLayout:
    """A prompt and its response, tokenized separately.

    Attributes:
        fields: What it reads.
        prompt: Record -> prompt.
        response: Record -> trained text, without its prefix.
        is_prompt_trained: `train_on_inputs`.
        max_tokens: Each of the two is cut there.
        num_end_tokens: How many end tokens stand behind the response.
        skips_empty: An empty text has no tokens, not even special ones.
    """

    fields: LayoutFields
    prompt: Part
    response: Part
    is_prompt_trained: bool
    max_tokens: int
    num_end_tokens: int = 1
    skips_empty: bool = True

    def render(self, record: Fields) -> Separate:
        """Prompt, then response and end token."""
        prompt = Segment(self.prompt(record), self.is_prompt_trained)
        response = self.fields.response_prefix + self.response(record)
        return self._separate(prompt, Segment(response, is_trained=True, ends_turn=True))

    def render_prompt(self, record: Fields) -> Separate:
        """The prompt alone."""
        return self._separate(Segment(self.prompt(record)))

    def _separate(self, *segments: Segment) -> Separate:
        return Separate(
            segments,
            self.max_tokens,
            num_end_tokens=self.num_end_tokens,
            skips_empty=self.skips_empty,
        )


def pair(
    fields: LayoutFields,
    prompt: Part,
    response: Part | None = None,
    *,
    num_end_tokens: int = 1,
    skips_empty: bool = True,
) -> BuiltIn:
    """A registered `PairLayout`; the response is the text of its only field if nothing is said."""

    def build(
        spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
    ) -> PairLayout:
        is_prompt_trained = options.train_on_inputs
        part = response or _response(fields.response[0], may_be_null=is_prompt_trained)
        limit = options.sequence_len
        return PairLayout(
            fields, prompt, part, is_prompt_trained, limit, num_end_tokens, skips_empty
        )

    return BuiltIn(build)


def text(name: str) -> Part:
    """The text of a required field."""
    return partial(text_field, name=name)


def written(name: str) -> Part:
    """A required field, written out if it is a number."""
    return partial(written_field, name=name)


def optional(name: str) -> Part:
    """An optional field, written out if it is a number; empty if it is not there."""
    return partial(optional_written_field, name=name)


def _response(name: str, *, may_be_null: bool) -> Part:
    """A response's text; without one there still is a prompt to train, if that is wanted."""

    def part(record: Fields) -> str:
        is_null = name in record and record[name] is None
        return (
            optional_text_field(record, name)
            if is_null and may_be_null
            else text_field(record, name)
        )

    return part

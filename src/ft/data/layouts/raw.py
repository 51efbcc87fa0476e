"""Texts, labeled texts and tokens that are trained as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft.data.layout import (
    Fields,
    LayoutFields,
    StrategyOptions,
    objects_field,
    text_field,
)
from ft.data.layouts.pair import BuiltIn
from ft.data.segments import IGNORE_INDEX, RecordError, Segment, Separate, Tokens
from ft.data.tokenize import check_tokens
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETION_REACH = 64
"""A completion's text is cut at so many rows of `sequence_len` tokens."""

PROMPT_FIELD = "prompt"
"""The field that a single text fills, where no segments are given."""


@dataclass(frozen=True)
class CompletionLayout:
    """A text that is trained from its first token to the last, in rows of `sequence_len` tokens."""

    field: str
    sequence_len: int

    @property
    def fields(self) -> LayoutFields:
        """The text's field, which is all that there is."""
        return LayoutFields(prompt=(self.field,), default=self.field)

    def render(self, record: Fields) -> Separate:
        """The text and an end token."""
        segment = Segment(text_field(record, self.field), is_trained=True, ends_turn=True)
        return Separate((segment,), COMPLETION_REACH * self.sequence_len, self.sequence_len)

    def render_prompt(self, record: Fields) -> Separate:
        """The text to go on from."""
        return Separate((Segment(text_field(record, self.field)),))


@dataclass(frozen=True)
class PretokenizedLayout:
    """Records that hold ids and labels; padding, where attention_mask is 0, is taken off."""

    vocabulary_size: int

    @property
    def fields(self) -> LayoutFields:
        """The columns of tokenized records."""
        return LayoutFields(("input_ids",), ("labels",), ("attention_mask",))

    def render(self, record: Fields) -> Tokens:
        """The record's ids and labels, once they are known to be sound."""
        if record.get("input_ids") is None:
            raise RecordError("missing field 'input_ids'", "set `type:` to lay out texts")
        if record.get("labels") is None:
            raise RecordError(
                "missing field 'labels'",
                f"labels is missing: tokenized records need it, {IGNORE_INDEX} where a token "
                "is not trained",
            )
        tokens = check_tokens(record["input_ids"], record["labels"], self.vocabulary_size)
        mask = record.get("attention_mask")
        return tokens if mask is None else _without_padding(tokens, list(mask))

    def render_prompt(self, record: Fields) -> Tokens:
        """The ids as they are given."""
        ids = record["input_ids"]
        return check_tokens(ids, [IGNORE_INDEX] * len(ids), self.vocabulary_size)


def _without_padding(tokens: Tokens, mask: list[int]) -> Tokens:
    if len(mask) != len(tokens.input_ids):
        raise RecordError(
            "unsound tokens",
            f"{len(tokens.input_ids)} input_ids but {len(mask)} in attention_mask",
        )
    kept = [position for position, is_seen in enumerate(mask) if is_seen]
    if kept and kept[-1] - kept[0] + 1 != len(kept):
        raise RecordError("unsound tokens", "attention_mask has a hole")
    window = slice(kept[0], kept[-1] + 1) if kept else slice(0)
    return Tokens(tokens.input_ids[window], tokens.labels[window])


@dataclass(frozen=True)
class LabeledLayout:
    """Texts that say themselves whether they are trained; nothing is added to them, or cut."""

    is_all_trained: bool

    @property
    def fields(self) -> LayoutFields:
        """Either segments, or one text to go on from."""
        return LayoutFields(optional=("segments",), default=PROMPT_FIELD)

    def render(self, record: Fields) -> Separate:
        """The texts, one by one."""
        segments = tuple(
            Segment(text_field(each, "text"), bool(each.get("label")) or self.is_all_trained)
            for each in objects_field(record, "segments")
        )
        return Separate(segments, has_special_tokens=False)

    def render_prompt(self, record: Fields) -> Separate:
        """What stands before the last text that is trained; or the text that is given."""
        if record.get("segments") is None:
            segment = Segment(text_field(record, PROMPT_FIELD))
            return Separate((segment,), has_special_tokens=False)
        given = objects_field(record, "segments")
        trained = [position for position, each in enumerate(given) if each.get("label")]
        asked = given[: trained[-1]] if trained else given
        segments = tuple(Segment(text_field(each, "text")) for each in asked)
        return Separate(segments, has_special_tokens=False)


def _completion(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> CompletionLayout:
    return CompletionLayout(spec.field or "text", options.sequence_len)


def _labeled(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> LabeledLayout:
    return LabeledLayout(options.train_on_inputs)


LAYOUTS: dict[str, BuiltIn] = {
    "completion": BuiltIn(_completion),
    "input_output": BuiltIn(_labeled),
}

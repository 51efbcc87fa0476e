"""Pygmalion: conversations that are tokenized turn by turn, in their own tags."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ft.data.layout import Fields, LayoutFields, StrategyOptions, objects_field, text_field
from ft.data.layouts.pair import BuiltIn
from ft.data.segments import RecordError, Segment, Separate
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FIELD = "prompt"
"""The field that a single question fills, where no history is given."""

MODEL_TAG = "<|model|>"
_FIELD = "conversations"
_START = "\n<START>"


@dataclass(frozen=True)
class PygmalionLayout:
    """A conversation in which the model's words are trained, without their tag.

    Attributes:
        max_tokens: Each turn is cut there.
    """

    max_tokens: int

    @property
    def fields(self) -> LayoutFields:
        """Either a history, or one question."""
        return LayoutFields(optional=(_FIELD,), default=PROMPT_FIELD)

    def render(self, record: Fields) -> Separate:
        """The turns; only a system turn brings a BOS."""
        return self._separate(*map(_segment, objects_field(record, _FIELD)))

    def render_prompt(self, record: Fields) -> Separate:
        """The conversation up to the model's tag."""
        turns: list[Fields]
        if record.get(_FIELD) is None:
            turns = [{"role": "human", "value": text_field(record, PROMPT_FIELD)}]
        else:
            turns = list(objects_field(record, _FIELD))
            if turns and turns[-1].get("role") == "bot":
                turns.pop()
        asked = [replace(_segment(turn), is_trained=False) for turn in turns]
        return self._separate(*asked, Segment(MODEL_TAG))

    def _separate(self, *segments: Segment) -> Separate:
        # A first segment would keep its BOS, so an empty one stands there.
        return Separate((Segment(""), *segments), self.max_tokens)


def _segment(turn: Fields) -> Segment:
    role, text = turn.get("role"), text_field(turn, "value")
    if role == "system":
        persona = text.removesuffix(_START).strip()
        return Segment(f"<|system|>Persona: {persona}", keeps_bos=True)
    if role == "human":
        return Segment(f"<|user|> {text.strip()}")
    if role == "bot":
        return Segment(f"{MODEL_TAG} {text.strip()}", True, True, masked_prefix=MODEL_TAG)
    raise RecordError(f"unknown role {role!r}", "pygmalion has system, human and bot")


def _pygmalion(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> PygmalionLayout:
    return PygmalionLayout(options.sequence_len)


LAYOUTS: dict[str, BuiltIn] = {"pygmalion": BuiltIn(_pygmalion)}

"""What a strategy makes of a record: texts that are trained or not, and how they become tokens.

    record --strategy--> Separate | Whole | Conversation | Labeled | Tokens
           --tokenize--> Tokens, one or more

`Separate` and `Whole` are the two ways in which layouts are tokenized; which one is used decides
the ids at the seams, so it belongs to the layout. A `Conversation` is whole as well; its turns are
found in it by position. `Labeled` is a text whose label is learned. `Tokens` come from records
that are tokenized already and from strategies that call the tokenizer themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

IGNORE_INDEX = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text.

    Attributes:
        text: The text, as it stands in front of the tokenizer.
        is_trained: Its tokens carry labels.
        ends_turn: An end token belongs behind it, and is trained.
        masked_prefix: What `text` begins with, untrained: as many tokens as this has on its own.
        keeps_bos: It keeps its BOS even behind other segments.
    """

    text: str
    is_trained: bool = False
    ends_turn: bool = False
    masked_prefix: str = ""
    keeps_bos: bool = False


@dataclass(frozen=True, slots=True)
class Separate:
    """Segments that are tokenized one by one; an end token is appended where a turn ends.

    Attributes:
        segments: In reading order.
        max_tokens: Each segment is cut to so many tokens; None = never.
        row_tokens: The result is cut into rows of so many tokens; None = one row.
        num_end_tokens: How many of them end a turn.
        has_special_tokens: The tokenizer adds its special tokens to each segment.
        skips_empty: An empty segment has no tokens at all, not even special ones.
    """

    segments: tuple[Segment, ...]
    max_tokens: int | None = None
    row_tokens: int | None = None
    num_end_tokens: int = 1
    has_special_tokens: bool = True
    skips_empty: bool = True


@dataclass(frozen=True, slots=True)
class Whole:
    """Segments of a text that is tokenized at once; end tokens are found in it, not appended.

    Attributes:
        segments: In reading order; together they are the rendered text.
        end_ids: Token ids that end a turn, one set a kind; the first of each kind is trained.
    """

    segments: tuple[Segment, ...]
    end_ids: tuple[frozenset[int], ...]

    @property
    def text(self) -> str:
        """The rendered text."""
        return "".join(segment.text for segment in self.segments)


CharSpan = tuple[int, int]
"""Characters of a text: the first, and the one behind the last."""

EndRule = Literal["turn", "all", "last", "none"]
"""Which end tokens are trained: those of trained turns, all, the last one, none."""


@dataclass(frozen=True, slots=True)
class TextParts:
    """Parts of a text within a conversation, and whether each is trained.

    Attributes:
        span: Where the text stands; None = the template leaves it out.
        text: The text itself: it is tokenized by itself, to know which token is whose.
        parts: Characters of `text`, first and last, and whether they are trained.
    """

    span: CharSpan | None
    text: str
    parts: tuple[tuple[int, int, bool], ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a conversation.

    Attributes:
        span: Where its content stands; None = the template leaves it out.
        is_trained: The turn is trained, and its end where the rule is "turn".
        parts: If there are any, only what they say is trained of its content.
    """

    span: CharSpan | None
    is_trained: bool
    parts: tuple[TextParts, ...] = ()


@dataclass(frozen=True, slots=True)
class EndTokens:
    """Tokens that end a turn, and which of them are trained."""

    ids: frozenset[int]
    rule: EndRule


@dataclass(frozen=True, slots=True)
class Conversation:
    """A rendered conversation: tokenized at once, its turns found by position.

    Attributes:
        text: What the template wrote.
        turns: Those that may be trained, or whose end may be.
        ends: End tokens, one entry a kind; the first of each kind behind a turn is meant.
    """

    text: str
    turns: tuple[Turn, ...]
    ends: tuple[EndTokens, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row: ids and labels of equal length.

    Attributes:
        input_ids: Token ids.
        labels: The id where the token is trained, `IGNORE_INDEX` elsewhere.
        num_uncut: Length the row would have if nothing had been cut; None = as it is.
    """

    input_ids: list[int]
    labels: list[int]
    num_uncut: int | None = None

    @property
    def num_wanted(self) -> int:
        """Length the row would have if nothing had been cut."""
        return len(self.input_ids) if self.num_uncut is None else self.num_uncut


@dataclass(frozen=True, slots=True)
class Labeled:
    """A text, or two, that is told by what it is; see ft.data.classification.

    Attributes:
        text: What is read.
        pair: What is read beside it; None = nothing.
        target: What is learned, as numbers in place of labels; empty where the model is asked.
        max_tokens: It is cut to so many tokens, special ones included; None = never.
        cuts_left: It loses its beginning then, not its end.
    """

    text: str
    pair: str | None
    target: tuple[int, ...]
    max_tokens: int | None
    cuts_left: bool


Rendered = Separate | Whole | Conversation | Labeled | Tokens | Sequence[Tokens]
"""What a strategy makes of one record; a sequence of tokens is several rows."""


class RecordError(Exception):
    """A record that can't be used; says why, as a group (`reason`) and in detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

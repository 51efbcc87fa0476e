"""What a strategy makes of a record: texts that are trained or not, and how they become tokens.

    record --strategy--> Separate | Whole | Tokens --tokenize--> Tokens, one or more rows

`Separate` and `Whole` are the two ways in which layouts are tokenized; which one is used decides
the ids at the seams, so it belongs to the layout. `Tokens` come from records that are tokenized
already and from strategies that call the tokenizer themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

IGNORE_INDEX = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text.

    Attributes:
        text: The text, as it stands in front of the tokenizer.
        is_trained: Its tokens carry labels.
        ends_turn: An end token belongs behind it, and is trained.
    """

    text: str
    is_trained: bool = False
    ends_turn: bool = False


@dataclass(frozen=True, slots=True)
class Separate:
    """Segments that are tokenized one by one; an end token is appended where a turn ends.

    Attributes:
        segments: In reading order.
        max_tokens: Each segment is cut to so many tokens; None = never.
        row_tokens: The result is cut into rows of so many tokens; None = one row.
    """

    segments: tuple[Segment, ...]
    max_tokens: int | None = None
    row_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """Segments of a text that is tokenized at once; end tokens are found in it, not appended.

    Attributes:
        segments: In reading order; together they are the rendered text.
        end_ids: Token ids that end a turn, one set a kind; the first of each kind is trained.
    """

    segments: tuple[Segment, ...]
    end_ids: tuple[frozenset[int], ...]


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


Rendered = Separate | Whole | Tokens | Sequence[Tokens]
"""What a strategy makes of one record; a sequence of tokens is several rows."""


class RecordError(Exception):
    """A record that can't be used; says why, as a group (`reason`) and in detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

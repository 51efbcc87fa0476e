"""A row of tokens as a person reads it: spans of text that are trained or not, long ones shortened.

ids     1 15043 ... 673 12542 2     spans
labels  -   -       673 12542 2     masked 'Context: ... ', trained 'Answer: 56', trained '</s>'
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ft.data.segments import IGNORE_INDEX, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEAD_TOKENS, TAIL_TOKENS = 60, 40
"""What is shown of a long run of tokens that are trained alike."""

HEAD_RUNS, TAIL_RUNS = 7, 5
"""What is shown of a row of many such runs: a conversation's first turns and its last."""

_CONTEXT = 8
"""So many tokens in front of a span decide how it is written: a space, half a character."""


@dataclass(frozen=True)
class Span:
    """A piece of a row.

    Attributes:
        text: What its tokens say; empty where they are left out.
        num_tokens: How many they are.
        is_trained: They carry labels.
        is_special: One special token: it stands for itself, not for its letters.
        is_gap: The tokens are not shown.
    """

    text: str
    num_tokens: int
    is_trained: bool
    is_special: bool = False
    is_gap: bool = False


@dataclass(frozen=True)
class Token:
    """A token as the vocabulary writes it, the id, and whether it is trained."""

    piece: str
    id: int
    is_trained: bool


def spans_of(row: Tokens, tokenizer: PreTrainedTokenizerBase) -> tuple[Span, ...]:
    """The row as text, in reading order; what is long is shortened in its middle."""
    special = special_ids(tokenizer)
    spans: list[Span] = []
    for start, stop, is_trained in _shown(_runs(row.labels)):
        if is_trained is None:
            spans.append(Span("", stop - start, False, is_gap=True))
            continue
        for first, last, is_gap in _shortened(start, stop):
            if is_gap:
                spans.append(Span("", last - first, is_trained, is_gap=True))
            else:
                spans += _decoded(row.input_ids, (first, last), is_trained, special, tokenizer)
    return tuple(spans)


def tokens_of(row: Tokens, tokenizer: PreTrainedTokenizerBase) -> tuple[Token, ...]:
    """Every token of the row."""
    pieces = tokenizer.convert_ids_to_tokens(row.input_ids)
    return tuple(
        Token(str(piece), int(token), label != IGNORE_INDEX)
        for piece, token, label in zip(pieces, row.input_ids, row.labels, strict=True)
    )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that stand for themselves: the named ones, and those added as special."""
    added = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _runs(labels: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Start, end and trainedness of each stretch of tokens that are trained alike."""
    runs, start = [], 0
    for is_trained, group in groupby(label != IGNORE_INDEX for label in labels):
        stop = start + sum(1 for _ in group)
        runs.append((start, stop, is_trained))
        start = stop
    return runs


def _shown(runs: list[tuple[int, int, bool]]) -> list[tuple[int, int, bool | None]]:
    """The runs, those in the middle of many put together as one that is neither (None)."""
    if len(runs) <= HEAD_RUNS + TAIL_RUNS:
        return [*runs]
    left_out = (runs[HEAD_RUNS][0], runs[-TAIL_RUNS][0], None)
    return [*runs[:HEAD_RUNS], left_out, *runs[-TAIL_RUNS:]]


def _shortened(start: int, stop: int) -> list[tuple[int, int, bool]]:
    """A run whole, or its head, a gap and its tail."""
    if stop - start <= HEAD_TOKENS + TAIL_TOKENS + 10:
        return [(start, stop, False)]
    head, tail = start + HEAD_TOKENS, stop - TAIL_TOKENS
    return [(start, head, False), (head, tail, True), (tail, stop, False)]


def _decoded(
    ids: Sequence[int],
    bounds: tuple[int, int],
    is_trained: bool,
    special: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[Span]:
    """The tokens' text; a special token is a span of its own."""
    position = bounds[0]
    for is_special, group in groupby(ids[slice(*bounds)], special.__contains__):
        for length in [1 for _ in group] if is_special else [sum(1 for _ in group)]:
            stop = position + length
            text = _text(ids, position, stop, tokenizer)
            yield Span(text, length, is_trained, is_special)
            position = stop


def _text(ids: Sequence[int], start: int, stop: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokens add to the text before them: alone, they may lose a space in front."""
    context = list(ids[max(start - _CONTEXT, 0) : start])
    before = _decode(context, tokenizer)
    together = _decode([*context, *ids[start:stop]], tokenizer)
    if together.startswith(before):
        return together[len(before) :]
    return _decode(list(ids[start:stop]), tokenizer)


def _decode(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

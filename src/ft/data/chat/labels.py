"""Which tokens of a conversation are trained.

A turn's tokens are those that stand between its characters; its end token is the first of its kind
within three tokens behind it. Positions are compared exactly as axolotl compares them, so that a
token which belongs to white space or to half a character falls on the same side.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ft.data.segments import (
    IGNORE_INDEX,
    CharSpan,
    Conversation,
    EndTokens,
    TextParts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_TOKEN_REACH = 3
"""So many tokens behind a turn its end token may stand: templates put white space between."""

_NOWHERE = (-1, -1)

Offsets = Sequence[tuple[int, int]]


def labels_of(
    conversation: Conversation,
    input_ids: Sequence[int],
    offsets: Offsets,
    tokenizer: PreTrainedTokenizerBase,
) -> list[int]:
    """The labels of a conversation's tokens.

    Args:
        conversation: What was tokenized.
        input_ids: Its ids.
        offsets: Where each token stands in its text.
        tokenizer: Tokenizes texts of which only parts are trained.

    Raises:
        RecordError: The parts that are trained do not lie in their text.
    """
    labels = [IGNORE_INDEX] * len(input_ids)
    starts, stops = [start for start, _ in offsets], [stop for _, stop in offsets]
    last: list[int | None] = [None] * len(conversation.ends)
    for turn in conversation.turns:
        first, behind = _tokens_of(turn.span, starts, stops)
        if turn.is_trained and not turn.parts and behind >= 0:
            labels[first:behind] = input_ids[first:behind]
        for parts in turn.parts:
            begin, _ = _tokens_of(parts.span, starts, stops)
            if begin >= 0:
                _train_parts(labels, input_ids, begin, _trained_tokens(parts, tokenizer))
        for kind, ends in enumerate(conversation.ends):
            at = _end_token(ends, input_ids, behind)
            if at is None:
                continue
            last[kind] = at
            if ends.rule == "all" or (ends.rule == "turn" and turn.is_trained):
                labels[at] = input_ids[at]
    for ends, position in zip(conversation.ends, last, strict=True):
        if ends.rule == "last" and position is not None:
            labels[position] = input_ids[position]
    return labels


def _tokens_of(
    span: CharSpan | None, starts: Sequence[int], stops: Sequence[int]
) -> tuple[int, int]:
    """The first token of a span and the one behind its last; (-1, -1) if it has none."""
    if span is None:
        return _NOWHERE
    first, behind = bisect_right(stops, span[0]), bisect_left(starts, span[1])
    return (first, behind) if first < behind else _NOWHERE


def _end_token(ends: EndTokens, input_ids: Sequence[int], behind: int) -> int | None:
    reach = range(max(behind, 0), min(behind + END_TOKEN_REACH + 1, len(input_ids)))
    if behind < 0 and input_ids and input_ids[-1] in ends.ids:
        return None  # a turn that is not there counts as standing on the last token
    return next((at for at in reach if input_ids[at] in ends.ids), None)


def _train_parts(
    labels: list[int], input_ids: Sequence[int], begin: int, trained: Sequence[bool]
) -> None:
    for at, is_trained in enumerate(trained, start=begin):
        if is_trained and at < len(labels):
            labels[at] = input_ids[at]


def _trained_tokens(parts: TextParts, tokenizer: PreTrainedTokenizerBase) -> list[bool]:
    """Which tokens of a text are trained, the text tokenized by itself."""
    encoded = tokenizer(parts.text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in encoded["offset_mapping"]]
    if not starts:
        return []
    # A token reaches to the one behind it: white space that no token claims belongs to it.
    stops = [start - 1 for start in starts[1:]] + [len(parts.text) - 1]
    trained = [False] * len(starts)
    for begin, end, is_trained in parts.parts:
        around = _widened(begin, end, starts, stops)
        if around is None or not is_trained:
            continue
        for at, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if start >= around[0] and stop <= around[1]:
                trained[at] = True
    return trained


def _widened(
    begin: int, end: int, starts: Sequence[int], stops: Sequence[int]
) -> tuple[int, int] | None:
    """The characters of the tokens that a part touches; None if it touches none."""
    first = next((at for at, start in enumerate(starts) if start >= begin), len(starts))
    if first > 0 and stops[first - 1] > begin:
        first -= 1
    last = next((at for at in reversed(range(len(stops))) if stops[at] <= end), -1)
    if last < len(stops) - 1 and starts[last + 1] < end:
        last += 1
    if first > last:
        return None
    return starts[first], stops[last]

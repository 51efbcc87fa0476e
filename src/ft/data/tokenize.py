"""Segments -> ids and labels: the one place where masks are made.

Separately tokenized segments follow axolotl's rule: every segment goes through the tokenizer with
its usual special tokens, is cut at `max_tokens`, gets an end token where its turn ends (unless one
is there already, or the segment is full, or empty), and all but the first lose their leading BOS.
What layouts do otherwise (several end tokens, no special tokens, an untrained beginning) they say
in `Separate` and `Segment`.

A whole text is tokenized once, without adding special tokens; a token belongs to a segment if it
overlaps it. A turn's end token is the first of its kind within three tokens behind the turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

from ft.data.chat.labels import END_TOKEN_REACH, labels_of
from ft.data.classification.tokens import tokenize_labeled
from ft.data.segments import (
    IGNORE_INDEX,
    Conversation,
    Labeled,
    RecordError,
    Rendered,
    Segment,
    Separate,
    Tokens,
    Whole,
)
from ft.runtime.errors import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize(
    rendered: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase
) -> list[list[Tokens]]:
    """The rows of each rendered record; the tokenizer is called once for all of them.

    Args:
        rendered: What the strategy made of each record.
        tokenizer: The model's tokenizer.

    Returns:
        One list a record; it has one row, or several where a record is cut into rows.
    """
    separate = iter(
        tokenize_separately([each for each in rendered if isinstance(each, Separate)], tokenizer)
    )
    whole = iter(
        tokenize_whole(
            [each for each in rendered if isinstance(each, Whole | Conversation)], tokenizer
        )
    )
    labeled = iter(
        tokenize_labeled([each for each in rendered if isinstance(each, Labeled)], tokenizer)
    )
    rows: list[list[Tokens]] = []
    for each in rendered:
        if isinstance(each, Separate):
            rows.append(_cut_into_rows(next(separate), each.row_tokens))
        elif isinstance(each, Whole | Conversation):
            rows.append([next(whole)])
        elif isinstance(each, Labeled):
            rows.append([next(labeled)])
        else:
            rows.append([each] if isinstance(each, Tokens) else list(each))
    return rows


def tokenize_separately(
    batch: Sequence[Separate], tokenizer: PreTrainedTokenizerBase
) -> list[Tokens]:
    """One row a record: its segments tokenized on their own, and concatenated."""
    encoded: dict[bool, Iterator[list[int]]] = {}
    for has_special_tokens in (True, False):
        texts = [
            text
            for each in batch
            if each.has_special_tokens == has_special_tokens
            for segment in each.segments
            for text in _texts(segment)
        ]
        encoded[has_special_tokens] = iter(_encode(texts, tokenizer, has_special_tokens))
    joiner = _Joiner(tokenizer)
    return [joiner.join(each, encoded[each.has_special_tokens]) for each in batch]


def tokenize_whole(
    batch: Sequence[Whole | Conversation], tokenizer: PreTrainedTokenizerBase
) -> list[Tokens]:
    """One row a record: its text tokenized at once, spans mapped to tokens by their offsets."""
    if not batch:
        return []
    if not tokenizer.is_fast:
        raise UserError(
            Problem(
                f"{type(tokenizer).__name__} can't say where its tokens stand in the text, "
                "and chat templates are masked by position",
                fix="use a tokenizer that comes with a tokenizer.json",
            )
        )
    encoded = tokenizer(
        [each.text for each in batch],
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [
        Tokens(
            input_ids,
            labels_of(each, input_ids, offsets, tokenizer)
            if isinstance(each, Conversation)
            else _labels_by_offset(each, input_ids, offsets),
        )
        for each, input_ids, offsets in zip(
            batch, encoded["input_ids"], encoded["offset_mapping"], strict=True
        )
    ]


def check_tokens(input_ids: Any, labels: Any, vocabulary_size: int) -> Tokens:
    """Ids and labels that somebody else made, once they are known to be sound.

    Raises:
        RecordError: They are no lists of integers, differ in length, or leave the vocabulary.
    """
    ids, targets = _integers(input_ids, "input_ids"), _integers(labels, "labels")
    if len(ids) != len(targets):
        raise RecordError("unsound tokens", f"{len(ids)} input_ids but {len(targets)} labels")
    for name, values in (("input_ids", ids), ("labels", targets)):
        for value in values:
            is_ignored = name == "labels" and value == IGNORE_INDEX
            if not (0 <= value < vocabulary_size or is_ignored):
                raise RecordError(
                    "unsound tokens",
                    f"{name} hold {value}, the vocabulary ends at {vocabulary_size - 1}",
                )
    return Tokens(ids, targets)


def encode_text(
    text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None = None
) -> list[int]:
    """Ids of one text with the tokenizer's own special tokens, cut as the tokenizer cuts."""
    return _cut(_encode([text], tokenizer)[0], max_tokens, tokenizer)


def ids_before_training(row: Tokens) -> list[int]:
    """The ids in front of the first trained token; all of them if none is trained."""
    for position, label in enumerate(row.labels):
        if label != IGNORE_INDEX:
            return row.input_ids[:position]
    return list(row.input_ids)


def split_response(input_ids: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """The ids before the last trained run, and that run (its end token included).

    Args:
        input_ids: A row's ids.
        labels: Its labels, of the same length.

    Returns:
        Prompt and response ids; all is prompt if nothing is trained.
    """
    if all(label == IGNORE_INDEX for label in labels):
        return [int(token) for token in input_ids], []
    end = len(labels)
    while labels[end - 1] == IGNORE_INDEX:
        end -= 1
    start = end
    while start and labels[start - 1] != IGNORE_INDEX:
        start -= 1
    ids = [int(token) for token in input_ids[:end]]
    return ids[:start], ids[start:]


def _integers(values: Any, name: str) -> list[int]:
    try:
        items = list(values)
    except TypeError:
        raise RecordError("unsound tokens", f"{name} is {type(values).__name__}") from None
    for value in items:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise RecordError("unsound tokens", f"{name} hold {value!r}, not an integer")
    return [int(value) for value in items]


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, has_special_tokens: bool = True
) -> list[list[int]]:
    """Ids of each text; an empty text has none at all."""
    filled = [text for text in texts if text]
    if not filled:
        return [[] for _ in texts]
    encoded: list[list[int]] = tokenizer(
        filled, add_special_tokens=has_special_tokens, return_attention_mask=False, verbose=False
    )["input_ids"]
    if len(filled) == len(texts):
        return encoded
    ids = iter(encoded)
    return [next(ids) if text else [] for text in texts]


def _texts(segment: Segment) -> tuple[str, ...]:
    """What is tokenized of a segment, in the order in which `_Joiner` takes it up again."""
    return (segment.text, segment.masked_prefix) if segment.masked_prefix else (segment.text,)


class _Joiner:
    """Segments' ids -> one row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._bos_id = tokenizer.bos_token_id  # once: it takes transformers longer than a segment
        self._end_id = tokenizer.eos_token_id

    def join(self, each: Separate, encoded: Iterator[list[int]]) -> Tokens:
        """The row of one record; `encoded` gives the ids of each segment's `_texts`."""
        input_ids: list[int] = []
        labels: list[int] = []
        num_lost = 0
        for position, segment in enumerate(each.segments):
            uncut = next(encoded)
            prefix = next(encoded) if segment.masked_prefix else []
            if not segment.text and not each.skips_empty:
                uncut = [*chain(*_special_affixes(self._tokenizer))]
            ids, num_cut = self._finish(uncut, segment, each)
            num_lost += num_cut
            if position and each.has_special_tokens and not segment.keeps_bos:
                ids, prefix = self._without_bos(ids), self._without_bos(prefix)
            num_masked = min(len(prefix), len(ids)) if segment.is_trained else len(ids)
            input_ids += ids
            labels += [IGNORE_INDEX] * num_masked
            labels += ids[num_masked:]
        return Tokens(input_ids, labels, len(input_ids) + num_lost if num_lost else None)

    def _finish(self, uncut: list[int], segment: Segment, each: Separate) -> tuple[list[int], int]:
        """The ids, cut and with the end tokens that have room; and how many that costs."""
        num_ends = each.num_end_tokens if segment.ends_turn and self._end_id is not None else 0
        whole = self._with_ends(uncut, num_ends)
        limit = each.max_tokens
        if limit is None or len(whole) <= limit:
            return whole, 0
        ids = _cut(uncut, limit, self._tokenizer)
        ids = self._with_ends(ids, num_ends)[: max(limit, len(ids))]
        return ids, len(whole) - len(ids)

    def _with_ends(self, ids: list[int], num_ends: int) -> list[int]:
        """The ids and their end tokens; one that stands there already is one of them."""
        if not num_ends or not ids:
            return ids
        return ids + [self._end_id] * (num_ends - (ids[-1] == self._end_id))

    def _without_bos(self, ids: list[int]) -> list[int]:
        return ids[1:] if ids and ids[0] == self._bos_id else ids


def _cut(ids: list[int], max_tokens: int | None, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer's own truncation leaves of `ids`: its special tokens stay at the ends."""
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    prefix, suffix = _special_affixes(tokenizer)
    body = ids[len(prefix) : len(ids) - len(suffix)]
    num_kept = max(max_tokens - len(prefix) - len(suffix), 0)
    is_left = tokenizer.truncation_side == "left"
    kept = body[len(body) - num_kept :] if is_left else body[:num_kept]
    return [*prefix, *kept, *suffix]


@lru_cache(maxsize=8)
def _special_affixes(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts in front of a text and behind it."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start]), tuple(full[start + len(bare) :])
    return (), ()


def _cut_into_rows(row: Tokens, row_tokens: int | None) -> list[Tokens]:
    if row_tokens is None:
        return [row]
    starts = range(0, len(row.input_ids), row_tokens)
    rows = [
        Tokens(row.input_ids[at : at + row_tokens], row.labels[at : at + row_tokens])
        for at in starts
    ]
    if rows and row.num_uncut is not None:
        last = rows[-1]
        num_cut = row.num_uncut - len(row.input_ids)
        rows[-1] = Tokens(last.input_ids, last.labels, len(last.input_ids) + num_cut)
    return rows or [row]


def _labels_by_offset(
    each: Whole, input_ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> list[int]:
    labels = [IGNORE_INDEX] * len(input_ids)
    # Offsets may shrink to nothing on white space, and repeat on the bytes of one character; what
    # is certain is their order, so a segment's tokens are a range.
    starts = list(accumulate((start for start, _ in offsets), max))
    ends = list(accumulate((end for _, end in offsets), max))
    segment_ends = list(accumulate(len(segment.text) for segment in each.segments))
    segment_starts = chain([0], segment_ends)
    for segment, start, end in zip(each.segments, segment_starts, segment_ends, strict=False):
        first = bisect_right(ends, start)
        stop = max(first, _first_token_behind(starts, ends, end))
        if segment.is_trained:
            labels[first:stop] = input_ids[first:stop]
        if segment.ends_turn:
            reach = range(stop, min(stop + END_TOKEN_REACH + 1, len(input_ids)))
            for kind in each.end_ids:
                for position in [at for at in reach if input_ids[at] in kind][:1]:
                    labels[position] = input_ids[position]
    return labels


def _first_token_behind(starts: Sequence[int], ends: Sequence[int], end: int) -> int:
    """Index of the first token that neither begins before `end` nor stops at it."""
    position = bisect_right(starts, end - 1)
    while position < len(ends) and ends[position] <= end:
        position += 1
    return position

"""Labeled texts -> rows: the tokenizer's own special tokens, cut by its own rule.

Rows hold ids alone: a model that tells two texts apart by `token_type_ids` gets them from where
the first separator stands (batches.py), so no text of a pair may hold one (layout.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ft.data.segments import IGNORE_INDEX, Labeled, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_labeled(batch: Sequence[Labeled], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    """One row a record; the numbers of its label stand at its last tokens."""
    singles = iter(_encode([each for each in batch if each.pair is None], tokenizer))
    pairs = iter(_encode([each for each in batch if each.pair is not None], tokenizer))
    return [_row(each, next(singles if each.pair is None else pairs), tokenizer) for each in batch]


def _encode(batch: Sequence[Labeled], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not batch:
        return []
    texts = [each.text for each in batch]
    pairs = [each.pair for each in batch if each.pair is not None]
    options = {"text_pair": pairs} if pairs else {}
    encoded: list[list[int]] = _call(tokenizer, texts, **options)["input_ids"]
    return encoded


def _call(tokenizer: PreTrainedTokenizerBase, text: Any, **options: Any) -> Any:
    return tokenizer(text, return_attention_mask=False, verbose=False, **options)


def _row(each: Labeled, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    num_uncut = len(ids)
    if each.max_tokens is not None and num_uncut > each.max_tokens:
        ids = _cut(each, each.max_tokens, tokenizer)
    num_target = len(each.target)
    if num_target > max(len(ids) - 1, 0):
        return Tokens(ids, [IGNORE_INDEX] * len(ids))  # judged as too short, or as untrained
    labels = [IGNORE_INDEX] * (len(ids) - num_target) + list(each.target)
    return Tokens(ids, labels, num_uncut if num_uncut > len(ids) else None)


def _cut(each: Labeled, max_tokens: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer's own truncation leaves; of two texts the longer one is cut first."""
    side = "left" if each.cuts_left else "right"
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(max_tokens, direction=side)
        try:
            ids: list[int] = backend.encode(each.text, each.pair).ids
        finally:
            backend.no_truncation()
        return ids
    before, tokenizer.truncation_side = tokenizer.truncation_side, side
    try:
        options = {"text_pair": each.pair, "truncation": True, "max_length": max_tokens}
        ids = _call(tokenizer, each.text, **options)["input_ids"]
    finally:
        tokenizer.truncation_side = before
    return ids

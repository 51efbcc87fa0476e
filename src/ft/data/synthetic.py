"""Rows of random tokens in the lengths that real ones have: for measuring speed, where no data are.

full     every row has sequence_len tokens, all of them trained
short    lengths like those of question-to-SQL records: about 105 tokens, a quarter trained
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ft.data.prepare import PreparedData, usable_rows
from ft.data.report import DataReport, DatasetReport
from ft.data.segments import IGNORE_INDEX
from ft.data.store_builder import Rows, TokenStoreBuilder
from ft.data.tokenized import NO_LINE

RowKind = Literal["full", "short"]

_MEAN_LOG_LENGTH, _SPREAD_OF_LOG_LENGTH, _SHORTEST = 4.6, 0.35, 40
_TRAINED_SHARE = 0.25
_FIRST_ID = 3
"""Below it are special tokens, in most vocabularies."""


def synthetic_data(
    kind: RowKind, num_rows: int, *, sequence_len: int, vocab_size: int, seed: int
) -> PreparedData:
    """Data to train on that nobody learns from.

    Args:
        kind: Which lengths, and how much of a row is trained.
        num_rows: How many rows.
        sequence_len: Tokens of the longest row.
        vocab_size: Ids are drawn below it.
        seed: Of lengths and ids.
    """
    generator = np.random.default_rng(seed)
    lengths = np.full(num_rows, sequence_len)
    if kind == "short":
        drawn = np.exp(generator.normal(_MEAN_LOG_LENGTH, _SPREAD_OF_LOG_LENGTH, num_rows))
        lengths = np.clip(drawn.astype(np.int64), min(_SHORTEST, sequence_len), sequence_len)
    ids = generator.integers(min(_FIRST_ID, vocab_size - 1), vocab_size, int(lengths.sum()))
    share = _TRAINED_SHARE if kind == "short" else 1.0
    num_trained = np.maximum(np.ceil(lengths * share).astype(np.int64), 1)
    ends = np.cumsum(lengths)
    from_end = np.repeat(ends, lengths) - np.arange(len(ids))
    labels = np.where(from_end <= np.repeat(num_trained, lengths), ids, IGNORE_INDEX)
    predicted = np.minimum(num_trained, lengths - 1)  # a row's first token never is
    places = np.zeros((num_rows, 3), np.int64)
    places[:, 1], places[:, 2] = NO_LINE, np.arange(num_rows)
    name = f"synthetic {kind} rows"
    builder = TokenStoreBuilder()
    builder.append(
        Rows(
            ids.astype(np.int32),
            labels.astype(np.int32),
            lengths,
            predicted.astype(np.int32),
            places,
            ((name, name),),
        )
    )
    report = DatasetReport(
        name,
        kind,
        num_read=num_rows,
        num_kept=num_rows,
        num_rows=num_rows,
        num_tokens=len(ids),
        num_trained_tokens=int(predicted.sum()),
    )
    rows = usable_rows(builder.build(), None)
    return PreparedData(rows, None, (), DataReport((report,), num_rows, 0), in_order=(rows,))

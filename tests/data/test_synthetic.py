from __future__ import annotations

import numpy as np
import pytest

from ft.data.segments import IGNORE_INDEX
from ft.data.synthetic import synthetic_data


def make(kind, num_rows=400, seed=1, sequence_len=2048):
    return synthetic_data(kind, num_rows, sequence_len=sequence_len, vocab_size=500, seed=seed)


def test_full_rows_are_as_long_as_can_be_and_trained_whole():
    data = make("full", num_rows=3, sequence_len=64)
    assert [len(row.input_ids) for row in data.train] == [64] * 3
    assert data.train.num_trained_tokens == 3 * 63, "a row's first token is never predicted"
    assert all(np.array_equal(row.input_ids, row.labels) for row in data.train)


def test_short_rows_are_like_question_to_sql_records():
    data = make("short")
    lengths = data.train.lengths
    assert lengths.mean() == pytest.approx(105, rel=0.05)
    assert lengths.min() >= 40
    assert data.train.num_trained_tokens / data.train.num_tokens == pytest.approx(0.25, abs=0.01)
    row = data.train[0]
    trained = row.labels != IGNORE_INDEX
    first = int(np.argmax(trained))
    assert trained[first:].all(), "an answer is a row's end"
    assert np.array_equal(row.labels[first:], row.input_ids[first:])
    assert data.train.num_trained_tokens == sum(
        np.count_nonzero(each.labels[1:] != IGNORE_INDEX) for each in data.train
    )


def test_ids_are_in_the_vocabulary_and_follow_from_the_seed():
    data = make("short")
    assert max(row.input_ids.max() for row in data.train) < 500
    assert data.fingerprint() == make("short").fingerprint() != make("short", seed=2).fingerprint()


def test_a_short_sequence_len_cuts_short_rows():
    assert set(make("short", sequence_len=16).train.lengths) == {16}

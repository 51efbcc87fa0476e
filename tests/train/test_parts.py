"""Cadences, and how a step is cut into passes."""

import pytest

from ft.data.batches import Flat, Padded
from ft.spec import EvaluationSpec, OutputSpec
from ft.train.cadence import checkpoint_cadence, evaluation_cadence


@pytest.mark.parametrize(
    ("keys", "due"),
    [
        ({}, [10, 20]),
        ({"eval_steps": 6}, [6, 12, 18]),
        ({"eval_steps": 0.25}, [5, 10, 15, 20]),
        ({"evals_per_epoch": 2}, [5, 10, 15, 20]),
        ({"eval_strategy": "no"}, []),
        ({"eval_strategy": "epoch"}, [10, 20]),
    ],
)
def test_evaluation_cadence(keys, due):
    cadence = evaluation_cadence(EvaluationSpec(**keys), num_steps=20, steps_per_epoch=10)
    assert [step for step in range(1, 21) if cadence.is_due(step, 10)] == due


def test_checkpoint_cadence():
    cadence = checkpoint_cadence(OutputSpec(saves_per_epoch=3), num_steps=20, steps_per_epoch=10)
    assert [step for step in range(1, 21) if cadence.is_due(step, 10)] == [4, 8, 12, 16, 20]


def test_padded_passes_are_cut_by_number():
    assert Padded(0).cut([5, 5, 5, 5, 5], 2) == [[0, 1], [2, 3], [4]]


def test_flat_passes_are_cut_by_the_tokens_of_full_rows():
    """Two rows of at most 10 tokens may be in a pass: so may four of 5, and two of 10 always."""
    assert Flat(10).cut([5, 5, 5, 5, 5], 2) == [[0, 1, 2, 3], [4]]
    assert Flat(10).cut([10, 10, 10], 2) == [[0, 1], [2]]
    assert Flat(10).cut([], 2) == []

"""Two runs in one directory: the second one leaves at once, and a killed one leaves no lock."""

import pytest
from programme.bench import Bench
from programme.doubles import double_starts


@pytest.mark.parametrize(
    ("number", "num_starts"),
    [(0, 2), *(pytest.param(n, 5, marks=pytest.mark.slow) for n in (1, 2))],
)
def test_the_second_is_refused_and_the_killed_one_leaves_no_lock(
    tmp_path, tiny_llama, number, num_starts
):
    outcome = double_starts(Bench(tmp_path, tiny_llama), number, num_starts)
    assert not outcome.faults
    assert outcome.counts["refused"] == num_starts

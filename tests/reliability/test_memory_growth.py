"""A long run holds no more at its end than it held once it was under way."""

import pytest
from programme.bench import Bench
from programme.memory import memory_growth, slope_a_thousand_steps


def test_the_slope_does_not_follow_single_steps():
    resident = {step: 10**9 + 500 * step for step in range(1, 4001)}
    assert slope_a_thousand_steps(resident) == pytest.approx(500e3)
    resident |= {step: 2 * 10**9 for step in range(3, 4001, 7)}
    assert slope_a_thousand_steps(resident) == pytest.approx(500e3, rel=0.2)


def test_the_slope_of_few_points_is_that_of_all_of_them():
    assert slope_a_thousand_steps({step: step for step in range(200, 5001, 200)}) == 1000


@pytest.mark.slow
def test_five_thousand_steps(tmp_path, tiny_llama):
    outcome = memory_growth(Bench(tmp_path, tiny_llama), "lora")
    assert not outcome.faults
    assert outcome.counts["steps"] == 5000

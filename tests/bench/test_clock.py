from __future__ import annotations

import time

import pytest
import torch

from ft.bench.clock import StepClock
from ft.bench.record import quantiles

CPU = torch.device("cpu")


def run_steps(clock, num_tokens):
    for number in num_tokens:
        clock.begin_step()
        for _ in range(2):
            clock.mark("forward")
            time.sleep(0.01)
            clock.mark("backward")
            time.sleep(0.02)
        clock.mark("optimizer")
        clock.end_step(number, number // 2)


def test_parts_make_up_the_step_and_the_warm_up_does_not_count():
    clock = StepClock(CPU, num_warmup_steps=2, num_steps=3)
    assert clock.num_all_steps == 5
    run_steps(clock, [1, 2, 10, 20, 30])
    steps = clock.counted_steps()
    assert [(step.num_tokens, step.num_trained_tokens) for step in steps] == [
        (10, 5),
        (20, 10),
        (30, 15),
    ]
    for step in steps:
        assert step.num_passes == 2
        assert step.parts_s["forward"] >= 0.02
        assert step.parts_s["backward"] >= 0.04
        assert list(step.parts_s) == ["data", "forward", "backward", "optimizer"]
    assert clock.wall_time_s >= sum(step.time_s for step in steps)
    assert clock.wall_time_s == pytest.approx(sum(step.time_s for step in steps), rel=0.2)
    assert clock.peak_bytes > 0
    assert clock.kernels is None


def test_a_mark_between_steps_belongs_to_none():
    clock = StepClock(CPU, 1, 1)
    clock.mark("forward")
    run_steps(clock, [1])
    clock.mark("other")
    run_steps(clock, [2])
    assert [step.num_tokens for step in clock.counted_steps()] == [2]


def test_quantiles():
    assert quantiles([3.0]) == {"p20": 3.0, "p50": 3.0, "p80": 3.0}
    assert quantiles(list(range(11))) == {"p20": 2, "p50": 5, "p80": 8}

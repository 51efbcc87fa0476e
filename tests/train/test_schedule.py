"""Learning-rate schedules against their formulas, written out."""

import json
import math

import pytest
import torch
from torch.nn import Parameter

from ft.runtime import UserError
from ft.spec import TrainingSpec
from ft.spec.runspec import Schedules
from ft.train.optimizer import build_optimizer
from ft.train.schedule import build_schedule, num_warmup_steps

NEEDED = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "warmup_stable_decay": {"num_decay_steps": 3},
}


def training(**keys) -> TrainingSpec:
    return TrainingSpec(**{"learning_rate": 0.1, **keys})


def begin(num_steps, **keys):
    spec = training(**keys)
    optimizer = build_optimizer(spec, [("w", Parameter(torch.ones(2, 2)))], torch.device("cpu"))
    return optimizer, build_schedule(spec, optimizer, num_steps)


def rates(num_steps, **keys) -> list[float]:
    """The rate of every step."""
    optimizer, schedule = begin(num_steps, **keys)
    values = []
    for _ in range(num_steps):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


@pytest.mark.parametrize("name", Schedules.__args__)
def test_every_schedule_runs_to_the_end_and_its_state_is_json(name):
    keys = {"lr_scheduler": name, "lr_scheduler_kwargs": NEEDED.get(name, {}), "warmup_steps": 2}
    values = rates(10, **keys)
    assert len(values) == 10
    assert 0 <= min(values) <= max(values) <= 0.1 + 1e-9
    assert max(values) > 0
    _, schedule = begin(10, **keys)
    json.dumps(schedule.state_dict())


def test_transformers_own():
    assert rates(4, lr_scheduler="constant") == [0.1] * 4
    assert rates(4, lr_scheduler="linear") == pytest.approx([0.1, 0.075, 0.05, 0.025])
    warm = rates(6, lr_scheduler="cosine", warmup_steps=2)
    assert warm[:3] == pytest.approx([0.0, 0.05, 0.1])
    assert warm[4] == pytest.approx(0.05 * (1 + math.cos(math.pi / 2)))


def test_cosine_down_to_a_share_of_the_peak():
    values = rates(10, cosine_min_lr_ratio=0.2, warmup_steps=2)
    expected = [0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * n / 8))) for n in range(8)]
    assert values == pytest.approx([0.0, 0.05, *expected])


def test_cosine_that_stays_low_after_a_share_of_the_steps():
    values = rates(10, cosine_min_lr_ratio=0.2, cosine_constant_lr_ratio=0.6, warmup_steps=2)
    expected = [0.1 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * n / 4))) for n in range(5)]
    assert values == pytest.approx([0.0, 0.05, *expected, 0.02, 0.02, 0.02])


def test_a_lowest_rate_of_zero_is_the_plain_cosine():
    assert rates(10, cosine_min_lr_ratio=0.0) == rates(10)


def test_a_warm_up_with_the_square_of_the_step():
    values = rates(10, lr_quadratic_warmup=True, warmup_steps=4)
    assert values[:5] == pytest.approx([0.1 * (n / 4) ** 2 for n in range(5)])
    assert values[4:] == pytest.approx(rates(10, warmup_steps=4)[4:])


def test_rex():
    """Of the step about to be taken: from above zero in the warm-up, to the lowest rate."""

    def factor(step):
        rest = (10 - step) / 8
        return rest / (0.1 + 0.9 * rest)

    values = rates(10, lr_scheduler="rex", warmup_steps=2)
    assert values == pytest.approx([0.05, 0.1, *(0.1 * factor(n) for n in range(3, 10)), 0.0])
    low = rates(10, lr_scheduler="rex", warmup_steps=2, cosine_min_lr_ratio=0.5)
    assert low[2:] == pytest.approx([*(0.05 + 0.05 * factor(n) for n in range(3, 10)), 0.05])


def test_one_cycle_is_torchs_with_its_rise_in_the_warm_up():
    values = rates(
        10, lr_scheduler="one_cycle", warmup_steps=3, lr_scheduler_kwargs={"div_factor": 5.0}
    )
    assert values[0] == pytest.approx(0.02)
    assert values.index(max(values)) == 2  # pct_start * total_steps - 1, as torch has it
    assert max(values) == pytest.approx(0.1)
    assert values[-1] < 1e-5


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("cosine_with_min_lr", {}), ("one_cycle", {"max_rate": 1}), ("linear", {"x": 1})],
)
def test_arguments_that_are_wrong_are_the_users_mistake(name, kwargs):
    with pytest.raises(UserError, match=f"lr_scheduler_kwargs of {name}"):
        begin(10, lr_scheduler=name, lr_scheduler_kwargs=kwargs)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({}, 0),
        ({"warmup_steps": 7}, 7),
        ({"warmup_ratio": 0.03}, 4),
        ({"warmup_steps": 0.03}, 4),
        ({"warmup_steps": 0, "warmup_ratio": 0.5}, 0),
    ],
)
def test_warmup(keys, steps):
    assert num_warmup_steps(training(**keys), 101) == steps

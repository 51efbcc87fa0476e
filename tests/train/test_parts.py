"""Optimizers, schedules, cadences, and which records a step holds."""

import math

import pytest
import torch
from torch.nn import Parameter

from ft.data.batches import Flat, Padded, StepPlan
from ft.spec import EvaluationSpec, OutputSpec, TrainingSpec
from ft.spec.runspec import Optimizers, Schedules
from ft.train.cadence import checkpoint_cadence, evaluation_cadence
from ft.train.optimizer import OPTIMIZERS, build_optimizer, build_schedule, num_warmup_steps

CPU = torch.device("cpu")


def training(**keys) -> TrainingSpec:
    return TrainingSpec(**{"learning_rate": 0.1, **keys})


def test_every_name_of_the_dialect_has_an_optimizer():
    assert set(Optimizers.__args__) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_a_square(name):
    weight = Parameter(torch.full((80, 80), 2.0))
    optimizer = build_optimizer(training(optimizer=name, learning_rate=0.01), [weight], CPU)
    for _ in range(3):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert (weight**2).mean() < 4


def test_matrices_decay_and_vectors_do_not():
    matrix, vector = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2))
    optimizer = build_optimizer(training(weight_decay=0.5), [matrix, vector], CPU)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def rates(num_steps, **keys):
    spec = training(**keys)
    optimizer = build_optimizer(spec, [Parameter(torch.ones(2, 2))], CPU)
    schedule = build_schedule(spec, optimizer, num_steps)
    values = []
    for _ in range(num_steps):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


@pytest.mark.parametrize("name", Schedules.__args__)
def test_every_schedule_of_the_dialect_runs(name):
    assert max(rates(10, lr_scheduler=name)) <= 0.1 + 1e-9


def test_schedules():
    assert rates(4, lr_scheduler="constant") == [0.1] * 4
    assert rates(4, lr_scheduler="linear") == pytest.approx([0.1, 0.075, 0.05, 0.025])
    warm = rates(6, lr_scheduler="cosine", warmup_steps=2)
    assert warm[:3] == pytest.approx([0.0, 0.05, 0.1])
    assert warm[4] == pytest.approx(0.05 * (1 + math.cos(math.pi / 2)))


@pytest.mark.parametrize(
    ("keys", "steps"), [({}, 0), ({"warmup_steps": 7}, 7), ({"warmup_ratio": 0.03}, 4)]
)
def test_warmup(keys, steps):
    assert num_warmup_steps(training(**keys), 101) == steps


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


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_an_epoch_sees_each_record_once_whoever_reads_it(num_processes):
    plan = StepPlan(23, 2, 3, num_processes, seed=5)
    seen = []
    for step in range(plan.steps_per_epoch):
        records = plan.records_of(step)
        shares = [plan.share_of(records, rank) for rank in range(num_processes)]
        assert sorted(record for share in shares for record in share) == sorted(records)
        seen += records
    assert sorted(seen) == list(range(23))


def test_epochs_differ_and_are_repeatable():
    plan = StepPlan(50, 5, 1, 1, seed=5)
    assert plan.records_of(0) == StepPlan(50, 5, 1, 1, seed=5).records_of(0)
    assert plan.records_of(0) != plan.records_of(plan.steps_per_epoch)
    assert plan.records_of(0) != StepPlan(50, 5, 1, 1, seed=6).records_of(0)


def test_a_step_holds_the_same_records_however_it_is_cut():
    assert StepPlan(50, 4, 2, 1, 5).records_of(3) == StepPlan(50, 1, 4, 2, 5).records_of(3)


def test_padded_passes_are_cut_by_number():
    assert Padded(0).cut([5, 5, 5, 5, 5], 2) == [[0, 1], [2, 3], [4]]


def test_flat_passes_are_cut_by_the_tokens_of_full_rows():
    """Two rows of at most 10 tokens may be in a pass: so may four of 5, and two of 10 always."""
    assert Flat(10).cut([5, 5, 5, 5, 5], 2) == [[0, 1, 2, 3], [4]]
    assert Flat(10).cut([10, 10, 10], 2) == [[0, 1], [2]]
    assert Flat(10).cut([], 2) == []

"""Choices on made-up hardware: 4 layers of 100 bytes a token, 10 when recomputed."""

from dataclasses import replace

import pytest

from ft.plan import Budget, Choice, LossNeed, OptimizerNeed, RunNeed, StepWork, choose, least
from ft.plan.cards import find_card
from ft.plan.choice import memory_of
from ft.plan.memory import PassSize, peak_memory
from ft.plan.saved import LayerTrace
from ft.plan.shape import LayerShape, ModelShape, Weights

TRACE = LayerTrace(10.0, 100.0, 0.0, 20.0, 0.0)
LAYER = LayerShape(
    Weights(
        num_trained=10, num_products=1000,
        held_bytes=600.0, adapter_bytes=40.0, gradient_bytes=40.0, copy_bytes=2000.0,
        largest_copy_bytes=500.0,
    ),
    TRACE,
)  # fmt: skip
MODEL = ModelShape(
    layers=(LAYER,) * 4,
    outside=Weights(held_bytes=200.0),
    hidden_size=1, vocab_size=10, attention_size=1, head_bytes=2,
    trains_head=False,
)  # fmt: skip
NEED = RunNeed(
    model=MODEL,
    optimizer=OptimizerNeed(320.0),
    loss=LossNeed(0.0, 50.0),
    work=StepWork(400, 400, 50),
    longest_row=50, pass_tokens=100, step_tokens=400, trained_share=1.0, is_flat=True,
    is_compiled=True,
)  # fmt: skip
WEIGHTS = 4 * 600 + 200 + 4 * 40
ENDS = (4 + 2) * 100 + 2 * 100


def budget(memory_bytes, card=None):
    return Budget(memory_bytes, card, is_cuda=False)


def test_the_parts_add_up_at_the_loss():
    parts = peak_memory(
        MODEL, Choice(0, 4, 100), PassSize(100, 100, 2),
        optimizer=NEED.optimizer, loss=NEED.loss, is_cuda=False,
    )  # fmt: skip
    assert parts.weights == 4 * 600 + 200
    assert (parts.copies, parts.adapters, parts.optimizer) == (4 * 2000, 160, 320)
    assert parts.activations + parts.workspace in (4 * 100 * 100 + ENDS, 4 * 100 * 100 + 20 * 100)
    assert parts.gradients == 160
    assert parts.total == WEIGHTS + 8000 + 320 + 160 + 40_000 + 20 * 100


def test_recomputed_layers_keep_their_input_and_one_of_them_all():
    parts = peak_memory(
        MODEL, Choice(4, 0, 100), PassSize(100, 100, 2),
        optimizer=NEED.optimizer, loss=NEED.loss, is_cuda=False,
    )  # fmt: skip
    assert parts.activations == 3 * 10 * 100 + 100 * 100  # in the last layer's backward pass
    assert parts.workspace == 20 * 100 + 500  # and what it works with, a matrix dequantized


def test_gradients_grow_during_the_only_pass():
    one, two = (
        peak_memory(
            MODEL, Choice(0, 4, 100), PassSize(100, 100, num_passes),
            optimizer=NEED.optimizer, loss=NEED.loss, is_cuda=False,
        ).gradients
        for num_passes in (1, 2)
    )  # fmt: skip
    assert (one, two) == (40, 160)


def test_with_room_nothing_is_recomputed_and_everything_kept():
    plan = choose(NEED, budget(10**6), recompute=True)
    assert (plan.choice.num_recomputed, plan.choice.num_kept) == (0, 4)


def test_a_whole_step_is_one_pass_where_that_is_free():
    assert choose(NEED, budget(10**6, find_card("h200")), True).choice.pass_tokens == 400
    assert choose(NEED, budget(10**6, find_card("h200")), "always").choice.pass_tokens == 100
    padded = replace(NEED, is_flat=False)
    assert choose(padded, budget(10**6, find_card("h200")), True).choice.pass_tokens == 100


@pytest.mark.parametrize("memory_bytes", range(12_000, 60_000, 3_000))
def test_what_is_chosen_fits(memory_bytes):
    plan = choose(NEED, budget(memory_bytes), recompute=True)
    assert plan is not None
    assert plan.memory.total <= memory_bytes
    assert plan.choice.pass_tokens >= NEED.longest_row


def test_less_memory_means_more_recomputed_or_less_kept_or_smaller_passes():
    asked = [choose(NEED, budget(size), True) for size in range(60_000, 9_000, -1_000)]
    asked = [plan for plan in asked if plan]
    totals = [plan.memory.total for plan in asked]
    assert totals == sorted(totals, reverse=True)
    assert asked[-1].choice.num_recomputed + (4 - asked[-1].choice.num_kept) > 0


def test_always_and_never_are_taken_by_their_word():
    assert choose(NEED, budget(10**6), recompute="always").choice.num_recomputed == 4
    assert choose(NEED, budget(30_000), recompute=False).choice.num_recomputed == 0
    assert choose(NEED, budget(9_000), recompute=False) is None


def test_nothing_fits_below_the_least():
    smallest = memory_of(NEED, least(NEED, True), is_cuda=False).total
    assert choose(NEED, budget(smallest), recompute=True) is not None
    assert choose(NEED, budget(smallest - 1), recompute=True) is None

"""Numbers that are none, scales that are not found, losses that flee: stopped, named, not saved."""

import pytest
from safetensors.torch import load_file

from ft.runtime import TrainingError
from ft.train.checkpoint import TrainerState
from ft.train.health import MAX_SKIPPED_IN_A_ROW, HealthCheck
from poison import poison
from runs import curve, events, run, write_config


def test_one_poisoned_record_stops_the_run_before_it_reaches_the_weights(tmp_path, tiny_llama):
    """The embedding of one token is NaN, and one record of 18 has that token."""
    config = poison(tmp_path, tiny_llama, save_steps=1, save_total_limit=20, num_epochs=2)
    with pytest.raises(TrainingError) as caught:
        run(config)
    assert caught.value.exit_code == 4
    assert "data.jsonl:12" in caught.value.problems[0].where
    out = tmp_path / "out"
    step = events(out, "failed")[0]["step"]
    assert [number for number, *_ in curve(out)] == list(range(1, step))
    saved = [load_file(path) for path in out.rglob("adapter_model.safetensors")]
    assert len(saved) == step - 1, "the steps before it are saved, the poisoned one is not"
    assert all(tensor.isfinite().all() for state in saved for tensor in state.values())


def test_a_loss_above_the_threshold_stops_the_run(tmp_path, tiny_llama):
    keys = {"loss_watchdog_threshold": 0.1, "loss_watchdog_patience": 2}
    with pytest.raises(
        TrainingError, match=r"diverged: the loss of step 2 .* 2 in a row above 0.1"
    ):
        run(write_config(tmp_path, tiny_llama, **keys))
    assert len(curve(tmp_path / "out")) == 2
    assert "diverged" in events(tmp_path / "out", "failed")[0]["what"]


def test_without_a_threshold_a_run_worse_than_its_beginning_stops(tmp_path, tiny_llama):
    keys = {
        "adapter": None,
        "learning_rate": 1.0,
        "lr_scheduler": "constant",
        "save_strategy": "no",
    }
    with pytest.raises(
        TrainingError, match=r"20 in a row above .* lowest of the first 10"
    ) as caught:
        run(write_config(tmp_path, tiny_llama, max_steps=100, **keys))
    assert caught.value.exit_code == 4
    assert len(curve(tmp_path / "out")) < 100


def health(**keys):
    told = []
    settings = {"threshold": None, "patience": None} | keys
    return HealthCheck(**settings, tell=lambda event, **values: told.append((event, values))), told


def test_overflows_are_counted_and_twenty_in_a_row_stop():
    check, told = health()
    state = TrainerState()
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        state.step += 1
        check.note_step(state, 1.0, was_skipped=True)
    state.step += 1
    check.note_step(state, 1.0, was_skipped=False)
    assert (state.num_skipped_steps, state.num_skipped_in_a_row) == (19, 0)
    assert told == []
    with pytest.raises(TrainingError, match="20 steps in a row overflowed in fp16, up to 40"):
        for _ in range(MAX_SKIPPED_IN_A_ROW):
            state.step += 1
            check.note_step(state, 1.0, was_skipped=True)
    assert told[0][0] == "failed"


def test_a_noisy_run_that_learns_is_left_alone():
    """Every 19 high losses there is a usual one."""
    check, _ = health()
    state = TrainerState()
    for step in range(1, 400):
        state.step = step
        check.note_step(state, 2.0 if step <= 10 or step % 20 == 0 else 9.0, was_skipped=False)
    assert state.num_high_losses_in_a_row == 19

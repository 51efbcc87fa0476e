"""A checkpoint with one byte changed or some missing: named, set aside, the one before is used."""

import os
import time

import pytest
from programme.damage import NUM_OFFSETS, cut, flip
from programme.saves import commit

from ft.train.checkpoint import CheckpointFolder
from runs import curve, events, run, write_config

FILES = ("adapter_config.json", "optimizer.safetensors", "trainer_state.json", "manifest.json")


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("file", FILES)
def test_every_byte_counts(tmp_path, file, damage):
    folder = CheckpointFolder(tmp_path, keep=None)
    commit(folder, 1)
    for number in range(NUM_OFFSETS):
        commit(folder, 2)
        damage(folder.at_step(2) / file, number / (NUM_OFFSETS - 1))
        broken = []
        found = folder.newest(lambda path, why, told=broken: told.append((path.name, why)))
        assert found.state.step == 1
        assert [name for name, _ in broken] == ["step-000002"]
        assert all(why for _, why in broken)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "broken-step-000002",
            "step-000001",
        ]


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(tmp_path, file):
    folder = CheckpointFolder(tmp_path, keep=None)
    commit(folder, 1)
    commit(folder, 2)
    (folder.at_step(2) / file).unlink()
    told = []
    assert folder.newest(lambda path, why: told.append(why)).state.step == 1
    assert file in told[0]


def test_clocks_are_not_asked(tmp_path):
    """The newest by its step is older by its time, as after a clock was set back."""
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (1, 2, 3):
        commit(folder, step)
        os.utime(folder.at_step(step), (1e9 - step, 1e9 - step))
    commit(folder, 4)
    assert folder.newest(print).state.step == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def test_a_clock_that_jumps_changes_no_duration_and_no_choice(tmp_path, tiny_llama, monkeypatch):
    """A day back after every event, as if set by hand; then a day on."""
    real, shift = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])

    def jump(event):
        shift[0] += -86_400 if event.get("step", 0) < 4 else 2 * 86_400

    config = write_config(tmp_path, tiny_llama, max_steps=6, save_steps=1, save_total_limit=2)
    result = run(config, on_event=jump)
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        "step-000005",
        "step-000006",
    ]
    assert 0 < result["train_time_s"] <= result["total_time_s"] < 600
    assert all(0 < each["step_time_s"] < 600 for each in events(out, "step"))
    assert all(0 <= each["save_time_s"] < 600 for each in events(out, "checkpoint"))
    assert [step for step, *_ in curve(out)] == [1, 2, 3, 4, 5, 6]


def test_what_is_needed_is_never_removed(tmp_path):
    """The best one, and the one that the run went on from."""
    folder = CheckpointFolder(tmp_path, keep=1)
    commit(folder, 1)
    folder.resumed_step = 1
    commit(folder, 2, keep_step=2)
    commit(folder, 3, keep_step=2)
    commit(folder, 4, keep_step=2)
    assert [folder.at_step(step).exists() for step in (1, 2, 3, 4)] == [True, True, False, True]

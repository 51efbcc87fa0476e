"""kill -9 at any moment: the same command goes on from the newest checkpoint, bit for bit."""

import re

import pytest
import torch
from programme import saves
from programme.bench import KINDS, Bench
from programme.kills import chain_of_kills
from programme.resumes import resume_from_every_step

from ft.train.checkpoint import CheckpointFolder, Snapshot, TrainerState
from runs import run, write_config


@pytest.fixture
def bench(tmp_path, tiny_llama):
    return Bench(tmp_path, tiny_llama)


@pytest.mark.parametrize(
    ("kind", "num_kills"), [("lora", 3), ("full", 3), ("packed", 2), ("nf4", 2)]
)
def test_ten_kills(bench, kind, num_kills):
    """The last one as the run ends; a hundred and more: benchmarks/reliability.py."""
    outcome = chain_of_kills(bench, kind, seed=0, num_kills=num_kills)
    assert not outcome.faults
    assert outcome.counts["kills"] + outcome.counts["too_late"] == num_kills
    assert outcome.counts["resumes"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("kind", KINDS)
def test_many_chains_of_kills(bench, kind, seed):
    assert not chain_of_kills(bench, kind, seed).faults


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_every_step(bench, kind):
    outcome = resume_from_every_step(bench, kind)
    assert not outcome.faults
    assert outcome.counts["resumes"] > 10


needs_strace = pytest.mark.skipif(not saves.is_possible(), reason="strace is not installed")


@needs_strace
@pytest.mark.parametrize("call", saves.CALLS)
def test_a_kill_at_every_call_of_a_save(bench, call):
    """First save, later saves, removal of old ones: old or new, never neither, never half."""
    assert not saves.kills_at_every(bench, call).faults


@needs_strace
def test_the_order_survives_a_power_cut(bench):
    """Every file is flushed, then its folder; then it gets its name, and that is flushed."""
    assert not saves.order_of_flushes(bench).faults


def test_told_only_of_what_is_there(tmp_path, tiny_llama):
    folder = CheckpointFolder(tmp_path / "out" / "checkpoints", keep=None)
    told = []

    def on_event(event):
        if event["event"] == "checkpoint":
            assert folder.is_whole(event["step"])
            told.append(event["step"])

    run(write_config(tmp_path, tiny_llama, save_steps=1, max_steps=4), on_event=on_event)
    assert told == [1, 2, 3, 4]


def test_a_snapshot_does_not_follow_the_training(tmp_path):
    tensor = torch.ones(4)
    snapshot = Snapshot.take(
        TrainerState(step=1),
        write_weights=lambda folder: None,
        optimizer={"state": {0: {"exp_avg": tensor}}},
        schedule={},
        scaler=None,
    )
    tensor.add_(1)
    folder = CheckpointFolder(tmp_path, keep=None)
    folder.commit(snapshot, keep_step=None)
    assert re.fullmatch(r"step-\d+", folder.at_step(1).name)
    assert torch.equal(folder.newest(print).optimizer["state"][0]["exp_avg"], torch.ones(4))

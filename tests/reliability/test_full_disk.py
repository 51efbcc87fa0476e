"""No space: said beforehand where that is certain; in the middle, nothing that was saved is lost."""

import resource

import pytest
from programme import disks
from programme.bench import Bench

from ft.runtime import MachineError
from ft.train.space import SpaceNeed
from runs import curve, events, run, write_config


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 100 kB."""
    try:
        with disks.small_disk(tmp_path / "small", 100_000):
            yield tmp_path / "small"
    except PermissionError:
        pytest.skip("mounting a small file system is not allowed here")


def test_too_little_is_said_before_the_first_step(tmp_path, tiny_llama, small_disk):
    config = write_config(tmp_path, tiny_llama, save_steps=1, max_steps=5)
    arguments = (config, "--output-dir", str(small_disk / "out"))
    with pytest.raises(
        MachineError, match=r"a checkpoint takes .* final weights .* are free"
    ) as full:
        run(*arguments)
    assert full.value.exit_code == 3
    assert curve(small_disk / "out") == []
    disks.enlarge(small_disk)
    told = []
    run(*arguments, on_event=told.append)
    (space,) = [event for event in told if event["event"] == "space"]
    size = max(
        sum(f.stat().st_size for f in c.iterdir())
        for c in (small_disk / "out" / "checkpoints").iterdir()
    )
    assert 0.7 < space["checkpoint_bytes"] / size < 1.1, "an estimate that can be relied on"
    assert not space["is_tight"]


def test_a_file_that_may_not_grow_in_the_middle_of_a_run(tmp_path, tiny_llama):
    """A limit of the process stands for a disk or a quota that gets full after two checkpoints."""
    (tmp_path / "straight").mkdir()
    (tmp_path / "full").mkdir()
    keys = {"save_steps": 1, "num_epochs": 2, "lora_dropout": 0.1}
    straight = write_config(tmp_path / "straight", tiny_llama, **keys)
    config = write_config(tmp_path / "full", tiny_llama, **keys)
    out = tmp_path / "full" / "out"
    run(straight)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(event):
        if event["event"] == "checkpoint" and event["step"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))

    try:
        with pytest.raises(MachineError, match="no space left") as full:
            run(config, on_event=fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.value.exit_code == 3
    saved = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert saved[:2] == ["step-000001", "step-000002"]
    assert not [name for name in saved if not name.startswith("step-")], "no half one is left"
    run(config)
    assert events(out, "resumed")[0]["checkpoint"] == saved[-1]
    assert curve(out) == curve(tmp_path / "straight" / "out")


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("lora", 0),
        *(pytest.param(k, s, marks=pytest.mark.slow) for k in ("full", "nf4") for s in (1, 2, 3)),
    ],
)
def test_a_disk_that_gets_full_in_the_middle_of_a_run(tmp_path, tiny_llama, kind, seed):
    bench = Bench(tmp_path, tiny_llama)
    if not disks.is_possible(tmp_path / "probe"):
        pytest.skip("mounting a small file system is not allowed here")
    outcome = disks.full_disk(bench, kind, seed)
    assert not outcome.faults
    assert outcome.counts["told"] == outcome.counts["intact"] == 1


@pytest.mark.parametrize(
    ("num_checkpoints", "num_existing", "keep", "peak"),
    [(1, 0, 4, 4), (9, 0, None, 28), (9, 0, 2, 9), (9, 2, 2, 3), (1, 1, 1, 3)],
)
def test_peak(num_checkpoints, num_existing, keep, peak):
    """A checkpoint of 3 bytes, final weights of 1."""
    need = SpaceNeed(1, 2, num_checkpoints, num_existing, keep)
    assert (need.checkpoint_bytes, need.least_bytes, need.peak_bytes) == (3, 4, peak)

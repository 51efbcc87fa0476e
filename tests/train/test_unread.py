"""Steps whose figures are read later: the same run, and a bad step never reaches the weights."""

import pytest
import torch
from safetensors.torch import load_file

from ft.runtime import TrainingError
from ft.spec import load_spec
from ft.train.ahead import Ahead
from ft.train.assembly import build_run
from ft.train.claim import claim_run
from ft.train.signals import StopRequest
from ft.train.teller import Teller
from ft.train.unread import LaunchedStep, UpdateGuard, read_all
from poison import poison
from runs import curve, events, run, write_config

FUSED = {"optimizer": "adamw_torch_fused", "num_epochs": 3, "save_strategy": "epoch"}


def test_read_rarely_or_every_step_it_is_the_same_run(tmp_path, tiny_llama):
    outs = []
    for logging_steps in (1, 4):
        folder = tmp_path / str(logging_steps)
        folder.mkdir()
        run(write_config(folder, tiny_llama, logging_steps=logging_steps, **FUSED))
        outs.append(folder / "out")
    every, rarely = (dict((step, figures) for step, *figures in curve(out)) for out in outs)
    assert sorted(rarely) == [step for step in sorted(every) if step % 4 == 0 or step == max(every)]
    assert all(every[step] == figures for step, figures in rarely.items())
    weights = [load_file(out / "adapter_model.safetensors") for out in outs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_bad_step_is_named_when_it_is_read(tmp_path, tiny_llama):
    config = poison(tmp_path, tiny_llama, **FUSED, logging_steps=100)
    with pytest.raises(TrainingError) as caught:
        run(config)
    assert "data.jsonl:12" in caught.value.problems[0].where
    step = events(tmp_path / "out", "failed")[0]["step"]
    assert f"the weights are as after step {step - 1}" in caught.value.problems[0].what
    assert not list((tmp_path / "out").rglob("adapter_model.safetensors"))


@pytest.mark.parametrize(("optimizer", "step"), [("adamw_torch", 2), ("adamw_torch_fused", 4)])
def test_a_diverged_run_stops_when_its_steps_are_read(tmp_path, tiny_llama, optimizer, step):
    config = write_config(
        tmp_path, tiny_llama, optimizer=optimizer, logging_steps=4, max_steps=8,
        loss_watchdog_threshold=1e-3, loss_watchdog_patience=2,
    )  # fmt: skip
    with claim_run(load_spec(config), overwrite=False) as claimed:
        loop = build_run(claimed, Teller(lambda event: None)).loop
        with pytest.raises(TrainingError, match="the run diverged: the loss of step 2"):
            loop.run(StopRequest())
    assert loop.state.step == step


@pytest.mark.parametrize("spoiled", ["loss", "gradient"])
def test_from_a_bad_step_on_nothing_changes(spoiled):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard = UpdateGuard(optimizer)
    assert guard.can_hold_back
    good, bad = torch.tensor(1.0), torch.tensor(torch.nan)
    seen = []
    for number in range(4):
        is_bad = number == 1
        weight.grad = torch.full((3,), torch.nan if is_bad else 1.0)
        guard.check(
            bad if is_bad and spoiled == "loss" else good,
            bad if is_bad and spoiled == "gradient" else good,
        )
        optimizer.step()
        seen.append((weight.detach().clone(), float(optimizer.state[weight]["step"])))
    assert not torch.equal(seen[0][0], torch.ones(3))
    for later, step in seen[1:]:
        assert torch.equal(later, seen[0][0])
        assert step == 1


def test_an_optimizer_without_such_a_flag_is_read_every_step():
    weight = torch.nn.Parameter(torch.ones(3))
    assert not UpdateGuard(torch.optim.AdamW([weight])).can_hold_back


def test_figures_are_means_over_what_was_trained():
    steps = [
        LaunchedStep(n, torch.tensor(6.0 * n), torch.tensor(float(n)), 0.1, 9, 3.0, [])
        for n in (1, 2)
    ]
    assert read_all(steps) == [(2.0, 1.0), (4.0, 2.0)]


def test_what_is_made_ahead_is_what_would_be_made_now():
    made = []

    def make(step):
        made.append(step)
        if step == 3:
            raise ValueError("no third step")
        return step * 10

    ahead = Ahead(make)
    assert [ahead.take(0, then=1), ahead.take(1, then=2), ahead.take(7, then=None)] == [0, 10, 70]
    assert ahead.take(2, then=3) == 20
    with pytest.raises(ValueError, match="no third step"):
        ahead.take(3, then=None)
    ahead.close()
    assert sorted(made) == [0, 1, 2, 2, 3, 7]

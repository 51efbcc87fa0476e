"""Every optimizer of the dialect, by name: it learns, takes its arguments, and its state is plain."""

import copy
import json

import pytest
import torch
from torch.nn import Parameter

from ft.cli.display import run_display
from ft.runtime import UserError
from ft.spec import TrainingSpec
from ft.spec.runspec import Optimizers
from ft.train.optimizer import OPTIMIZERS, build_optimizer, optimizer_in_use
from ft.train.schedule import build_schedule
from runs import events, run, write_config

CPU = torch.device("cpu")
NEEDS = {name: kind.library for name, kind in OPTIMIZERS.items() if kind.library}
PLAIN = [name for name in OPTIMIZERS if name not in NEEDS]


def training(**keys) -> TrainingSpec:
    return TrainingSpec(**{"learning_rate": 0.1, **keys})


def test_every_name_of_the_dialect_has_an_optimizer():
    assert set(Optimizers.__args__) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", PLAIN)
def test_every_optimizer_lowers_a_square(name):
    weight = Parameter(torch.full((80, 80), 2.0))
    optimizer = build_optimizer(training(optimizer=name, learning_rate=0.01), [("w", weight)], CPU)
    for _ in range(3):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert (weight**2).mean() < 4


def test_pages_are_for_large_states_and_change_nothing():
    """bitsandbytes' AdamW is what is paged; over an adapter's few weights torch's fused one runs."""
    assert optimizer_in_use("paged_adamw_32bit", 80_000_000) == "adamw_torch_fused"
    assert optimizer_in_use("paged_adamw_32bit", 7_000_000_000) == "paged_adamw_32bit"
    args = {"percentile_clipping": 95}
    assert optimizer_in_use("paged_adamw_32bit", 80_000_000, args) == "paged_adamw_32bit"

    torch.manual_seed(0)
    start, targets = torch.randn(64, 64), torch.randn(20, 64, 64)
    options = {"weight_decay": 0.1, "learning_rate": 0.01, "adam_beta2": 0.95}
    ends = []
    for wants_pages in (False, True):
        weight = Parameter(start.clone())
        spec = training(optimizer="paged_adamw_32bit", **options)
        if wants_pages:  # an argument that only bitsandbytes takes, at its default
            spec = spec.model_copy(update={"optim_args": {"min_8bit_size": 4096}})
        optimizer = build_optimizer(spec, [("w", weight)], CPU)
        assert type(optimizer).__module__.startswith("bitsandbytes" if wants_pages else "torch")
        for target in targets:
            optimizer.zero_grad()
            ((weight - target) ** 2).sum().backward()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def test_matrices_decay_and_vectors_do_not():
    matrix, vector = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2))
    optimizer = build_optimizer(training(weight_decay=0.5), [("m", matrix), ("v", vector)], CPU)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


def test_further_arguments_are_handed_on():
    spec = training(optimizer="sgd", optim_args={"momentum": 0.9, "nesterov": True})
    (group,) = build_optimizer(spec, [("w", Parameter(torch.ones(2, 2)))], CPU).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("wrong", [{"momentums": 0.9}, {"lr": 1.0}, {"momentum": -1.0}])
def test_arguments_that_it_does_not_take_are_the_users_mistake(wrong):
    spec = training(optimizer="sgd", optim_args=wrong)
    with pytest.raises(UserError, match="optim_args of sgd"):
        build_optimizer(spec, [("w", Parameter(torch.ones(2, 2)))], CPU)


@pytest.mark.parametrize("name", ["ademamix", "paged_ademamix_8bit"])
def test_ademamix_has_a_third_beta(name):
    spec = training(optimizer=name, adam_beta2=0.95)
    (group,) = build_optimizer(spec, [("w", Parameter(torch.ones(2, 2)))], CPU).param_groups
    assert group["betas"] == (0.9, 0.95, 0.9999)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install torchao"):
        build_optimizer(
            training(optimizer="adamw_torch_4bit"), [("w", Parameter(torch.ones(2, 2)))], CPU
        )


@pytest.mark.filterwarnings("ignore")  # torchao's own
def test_four_bits_resume_bit_for_bit_from_plain_state():
    pytest.importorskip("torchao")
    spec = training(optimizer="adamw_torch_4bit", learning_rate=0.01)
    whole = [Parameter(torch.linspace(-1, 1, 128 * 64).view(128, 64)), Parameter(torch.ones(64))]

    def begin(parameters):
        optimizer = build_optimizer(spec, [("p", p) for p in parameters], CPU)
        return optimizer, build_schedule(spec, optimizer, 10)

    def step(parameters, optimizer, schedule):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
        schedule.step()

    optimizer, schedule = begin(whole)
    step(whole, optimizer, schedule)
    state = copy.deepcopy(optimizer.state_dict())  # it shares tensors with the optimizer
    course = json.loads(json.dumps(schedule.state_dict()))
    moment = state["state"][0]["exp_avg"]
    assert {name: type(part) for name, part in moment.items()} == {
        "codes": torch.Tensor,
        "scale": torch.Tensor,
        "qmap": torch.Tensor,
    }
    resumed = [Parameter(p.detach().clone()) for p in whole]
    again = begin(resumed)
    again[0].load_state_dict(state)
    again[1].load_state_dict(course)
    step(whole, optimizer, schedule)
    step(resumed, *again)
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


def test_what_serves_a_name_is_told_as_the_run_begins(tmp_path, tiny_llama, capsys):
    config = write_config(tmp_path, tiny_llama, optimizer="paged_adamw_32bit", max_steps=1)
    with run_display() as display:
        run(config, on_event=display)
    (start,) = events(tmp_path / "out", "start")
    assert start["optimizer_in_use"] == "adamw_torch_fused"
    assert "paged_adamw_32bit (as adamw_torch_fused: its state is small)" in capsys.readouterr().out

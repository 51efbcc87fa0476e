"""A mixture's auxiliary loss: as transformers adds it, and the same with recomputation."""

import pytest
import torch
from test_objective import make_rows
from transformers import AutoModelForCausalLM, LlamaConfig

import tiny
from ft.data.batches import Padded
from ft.evaluate.objective import SupervisedTuning, router_loss_scale
from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.runtime import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec

PAD = 2
CPU = Hardware("cpu", supports_bf16=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_tiny_mixture(tmp_path_factory.mktemp("mixture"))


def built(folder, **options):
    overrides = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
    spec = ModelSpec(base_model=str(folder), overrides_of_model_config=overrides)
    return build_model(
        spec,
        AdapterSpec(),
        Precision(),
        None,
        load_tokenizer(spec),
        hardware=CPU,
        seed=1,
        **options,
    ).model


def learned(model, rows):
    objective = SupervisedTuning(Padded(PAD), router_loss_scale(model.config))
    loss = objective.loss_sum(model, objective.layout.batch(rows)) / sum(
        map(objective.weight, rows)
    )
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_it_is_what_transformers_adds(folder):
    model, rows = built(folder), make_rows([12, 12])
    ours, gradients = learned(model, rows)
    model.zero_grad()
    ids = torch.tensor([row.input_ids.tolist() for row in rows])
    labels = torch.tensor([row.labels.tolist() for row in rows])
    theirs = model(input_ids=ids, labels=labels)
    assert theirs.aux_loss > 0
    torch.testing.assert_close(ours, theirs.loss.detach())
    theirs.loss.backward()
    gate = "model.layers.0.mlp.gate.weight"
    torch.testing.assert_close(gradients[gate], dict(model.named_parameters())[gate].grad)


def test_recomputation_changes_nothing(folder):
    rows = make_rows([12, 5])
    plain = learned(built(folder), rows)
    recomputed = learned(built(folder, gradient_checkpointing=True), rows)
    torch.testing.assert_close(recomputed, plain)


def test_without_the_override_there_is_none(folder):
    assert router_loss_scale(AutoModelForCausalLM.from_pretrained(folder).config) is None
    assert router_loss_scale(LlamaConfig()) is None


def test_a_model_that_gives_none_is_an_error(tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    objective = SupervisedTuning(Padded(PAD), router_loss_scale=0.1)
    with pytest.raises(UserError, match="has no auxiliary loss"):
        objective.loss_sum(model, objective.layout.batch(make_rows([5])))

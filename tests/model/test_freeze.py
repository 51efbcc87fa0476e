"""Which parameters `unfrozen_parameters` leaves trainable."""

import pytest
import torch
from transformers import LlamaForCausalLM

from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.model.freeze import freeze_all_but
from ft.runtime import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec


@pytest.fixture
def model(tiny_llama):
    return LlamaForCausalLM.from_pretrained(tiny_llama)


def trainable(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["lm_head"], {"lm_head.weight"}),
        (["^lm_head.weight$", "model.norm"], {"lm_head.weight", "model.norm.weight"}),
        (
            ["model.layers.[1-9]+.mlp.(up|gate)_proj"],
            {"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight"},
        ),
        (["model.layers.1.self_attn.q.+"], {"model.layers.1.self_attn.q_proj.weight"}),
    ],
)
def test_a_name_is_matched_from_its_beginning(model, patterns, expected):
    freeze_all_but(model, patterns)
    assert set(trainable(model)) == expected


def test_a_dot_is_a_dot(model):
    freeze_all_but(model, ["model.layers.0.mlp.*"])
    assert len(trainable(model)) == 3
    assert all(name.startswith("model.layers.0.mlp.") for name in trainable(model))


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("model.language_model.*", "matches no parameter"),
        ("model.layers.(", "unterminated subpattern"),
        ("^model.embed_tokens.weight$[:32000]", "names rows"),
        ("layers.0", "matches no parameter"),
    ],
)
def test_a_pattern_that_trains_nothing_is_an_error(model, pattern, what):
    with pytest.raises(UserError, match=what) as caught:
        freeze_all_but(model, ["lm_head", pattern])
    assert caught.value.problems[0].where == "unfrozen_parameters.1"


def test_a_run_trains_them_and_nothing_else(tiny_llama):
    spec = ModelSpec(base_model=str(tiny_llama))
    adapter = AdapterSpec(unfrozen_parameters=("model.layers.1.mlp",))
    tokenizer = load_tokenizer(spec)
    cpu = Hardware("cpu", supports_bf16=True)
    loaded = build_model(
        spec, adapter, Precision(), None, tokenizer,
        hardware=cpu, seed=1, gradient_checkpointing=True,
    )  # fmt: skip
    assert len(loaded.trainable_parameters()) == 3
    ids = torch.arange(3, 19)[None]
    loaded.model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for _, parameter in loaded.trainable_parameters())

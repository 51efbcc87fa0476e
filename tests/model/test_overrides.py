"""`overrides_of_model_config`: set where the config has them, else an error with the nearest."""

import pytest

import tiny
from ft.model import load_config
from ft.runtime import UserError
from ft.spec.runspec import ModelSpec


@pytest.fixture(scope="module")
def tiny_mixture(tmp_path_factory):
    return tiny.save_tiny_mixture(tmp_path_factory.mktemp("mixture"))


def config_of(folder, **overrides):
    return load_config(ModelSpec(base_model=str(folder), overrides_of_model_config=overrides))


def test_values_are_replaced(tiny_mixture):
    config = config_of(tiny_mixture, output_router_logits=True, router_aux_loss_coef=1)
    assert config.output_router_logits is True
    assert config.router_aux_loss_coef == 1
    assert config_of(tiny_mixture).output_router_logits is False


def test_every_mistake_is_told_with_its_fix(tiny_mixture):
    with pytest.raises(UserError) as error:
        config_of(
            tiny_mixture, output_router_logit=True, num_experts_per_tok="two", torch_dtype="float16"
        )
    told = [(problem.where, problem.what, problem.fix) for problem in error.value.problems]
    key = "overrides_of_model_config"
    assert told == [
        (
            f"{key}.output_router_logit",
            "the config of qwen3_moe has no 'output_router_logit'",
            "did you mean output_router_logits?",
        ),
        (
            f"{key}.num_experts_per_tok",
            "got 'two', in place of 2",
            "give a value of the same type",
        ),
        (
            f"{key}.torch_dtype",
            "torch_dtype is not set here",
            "set bf16 or fp16 at the top level",
        ),
    ]

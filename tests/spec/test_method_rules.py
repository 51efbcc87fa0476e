"""What a method does not go with is told before anything is loaded, with its line and a way out."""

from __future__ import annotations

import pytest
import yaml

import method_cases
from ft.runtime.errors import UserError
from ft.spec import load_spec
from ft.spec.methods import IDLE_ELSEWHERE, METHODS, can_recompute, in_four_bits
from ft.spec.runspec import AdapterSpec, TrainingSpec
from ft.spec.sections.adapter import AdapterName

START = "base_model: a/b\nlearning_rate: 1e-3\ndatasets: [x]\n"


def problems_of(tmp_path, text):
    path = tmp_path / "c.yml"
    path.write_text(START + text)
    with pytest.raises(UserError) as caught:
        load_spec(path)
    return caught.value.problems


def test_every_method_of_the_keys_has_its_facts_and_knows_keys_that_exist():
    assert set(AdapterName.__args__) == set(METHODS)
    fields = AdapterSpec.model_fields | TrainingSpec.model_fields
    for method in METHODS.values():
        assert method.keys <= set(fields)
    of_methods = set().union(*(method.keys for method in METHODS.values()))
    assert set(AdapterSpec.model_fields) <= of_methods | {"adapter", "unfrozen_parameters"}


@pytest.mark.parametrize(("name", "setting"), method_cases.REFUSED)
def test_a_combination_that_is_refused_says_where_and_what_to_do(tmp_path, name, setting):
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(START) | method_cases.config_of(name, setting)))
    with pytest.raises(UserError) as caught:
        load_spec(path)
    for problem in caught.value.problems:
        assert problem.where.startswith(f"{path}:")
        assert problem.fix.startswith(("set ", "remove ", "use "))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("num_virtual_tokens: 8\n", 4, "belongs to adapter: prefix_tuning or prompt_tuning"),
        ("adapter: lora\nnum_virtual_tokens: 8\n", 5, "num_virtual_tokens belongs to adapter"),
        ("adapter: ia3\npeft_use_dora: true\n", 5, "peft_use_dora belongs to adapter: lora"),
        ("adapter: ia3\nloraplus_lr_ratio: 4\n", 5, "loraplus_lr_ratio belongs to adapter: lora"),
        ("adapter: lora\nloraplus_lr_embedding: 1e-5\n", 5, "LoRA+ is off"),
        ("adapter: adalora\nlora_r: 8\ninit_r: 8\n", 6, "takes ranks away until lora_r are left"),
        ("adapter: prompt_tuning\nprompt_tuning_init: TEXT\n", 5, "go together"),
        ("adapter: lora\npeft_layers_pattern: h\n", 5, "peft_layers_to_transform counts"),
        (
            "adapter: lora\nlora_r: 3\npeft_init_lora_weights: orthogonal\n",
            6,
            "orthogonal needs an even rank",
        ),
        ("adapter: p_tuning\nlora_model_dir: out\n", 5, "saved as what its network gave"),
        ("adapter: adalora\nlora_model_dir: out\n", 5, "without the running means"),
        ("adapter: ia3\nfeedforward_modules: down_proj\n", 5, "some of lora_target_modules"),
        ("adapter: [lora]\n", 4, "adapter: got ['lora']"),
        ("adapter: houlsby\n", 4, "adapter: houlsby is not supported"),
        ("adapter: lora\npeft_init_lora_weights: eva\n", 5, "eva is not supported"),
    ],
)
def test_keys_that_do_not_go_together(tmp_path, text, line, what):
    (problem,) = problems_of(tmp_path, text)
    assert f":{line}:" in problem.where
    assert what in problem.what
    assert problem.fix


def test_keys_of_lora_that_many_files_have_are_told_of_beside_another_method(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text(START + "adapter: prompt_tuning\nlora_r: 8\nlora_dropout: 0.1\nlora_alpha:\n")
    (notice,) = load_spec(path).notices
    assert notice == "no effect with adapter: prompt_tuning: lora_dropout, lora_r"
    assert {"lora_r", "lora_dropout"} <= IDLE_ELSEWHERE


@pytest.mark.parametrize("old", ["p_tuning_v2", "adaption_prompt", "llama_adapter"])
def test_other_names_are_read(tmp_path, old):
    path = tmp_path / "c.yml"
    path.write_text(START + f"adapter: {old}\n")
    assert load_spec(path).spec.adapter.adapter in METHODS


def test_what_a_plan_may_do_follows_the_method():
    assert not can_recompute("prefix_tuning")
    assert can_recompute("prompt_tuning")
    assert can_recompute(None)
    assert [in_four_bits(name) for name in (None, "lora", "ia3", "lokr")] == [
        "qlora",
        "qlora",
        "ia3",
        None,
    ]


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ("adapter: [lora]", ["adapter: got ['lora']"]),
        ("adapter: prompt_tuning", ["puts vectors before or into the text"]),
        ("field_weight: w", ["field_weight and logprobs_field belong to texts"]),
    ],
)
def test_what_a_classifier_does_not_go_with_is_told_once(tmp_path, keys, what):
    entry = {"path": "x", "type": "classification"}
    config = {"base_model": "a/b", "learning_rate": 1e-3, "task_type": "SEQ_CLS"}
    (given,) = yaml.safe_load(keys).items()
    (entry if given[0] == "field_weight" else config).update([given])
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump({**config, "datasets": [entry]}))
    with pytest.raises(UserError) as caught:
        load_spec(path)
    told = [problem.what for problem in caught.value.problems]
    assert len(told) == len(what)
    assert all(part in words for part, words in zip(what, told, strict=True))

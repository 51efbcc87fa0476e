"""`lora_target_modules` as names and as regular expressions, and the scale of the update."""

import math

import pytest

from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.runtime import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec

CPU = Hardware("cpu", supports_bf16=True)


def adapted(folder, **keys):
    spec = ModelSpec(base_model=str(folder))
    adapter = AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8, **keys)
    tokenizer = load_tokenizer(spec)
    return build_model(spec, adapter, Precision(), None, tokenizer, hardware=CPU, seed=1)


def paths(loaded) -> set[str]:
    names = [name for name, _ in loaded.trainable_parameters() if "lora_A" in name]
    return {name.removeprefix("base_model.model.").split(".lora_A")[0] for name in names}


def test_a_regular_expression_matches_whole_paths(tiny_llama):
    pattern = r"model.layers.[\d]+.(mlp|cross_attn|self_attn).(up|q)_proj"
    assert paths(adapted(tiny_llama, lora_target_modules=(pattern,))) == {
        f"model.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in ("mlp.up_proj", "self_attn.q_proj")
    }


def test_names_and_patterns_together(tiny_llama):
    loaded = adapted(tiny_llama, lora_target_modules=("k_proj", r".*\.1\.self_attn\.v_proj"))
    assert paths(loaded) == {
        "model.layers.0.self_attn.k_proj",
        "model.layers.1.self_attn.k_proj",
        "model.layers.1.self_attn.v_proj",
    }


@pytest.mark.parametrize(
    ("pattern", "what"),
    [(r"model\.vision\..*", "no module named"), ("(q_proj", "unterminated subpattern")],
)
def test_a_pattern_for_another_model_is_an_error(tiny_llama, pattern, what):
    with pytest.raises(UserError, match=what):
        adapted(tiny_llama, lora_target_modules=(pattern,))


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_the_scale_of_the_update(tiny_llama, stabilized, scale):
    loaded = adapted(tiny_llama, lora_target_modules=("q_proj",), peft_use_rslora=stabilized)
    layer = loaded.model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(scale)

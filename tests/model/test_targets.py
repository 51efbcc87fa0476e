"""`lora_target_modules` as names and as regular expressions, and the scale of the update."""

import math
import warnings

import pytest

from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.runtime import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec

CPU = Hardware("cpu", supports_bf16=True)


def adapted(folder, **keys):
    return built(folder, AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8, **keys))


def built(folder, adapter):
    spec = ModelSpec(base_model=str(folder))
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


@pytest.mark.parametrize(
    ("keys", "where", "what"),
    [
        ({"lora_rank_pattern": {"q_prj": 2}}, "lora_rank_pattern", "named 'q_prj'"),
        ({"lora_alpha_pattern": {"(q": 2}}, "lora_alpha_pattern", "unterminated subpattern"),
        ({"peft_layers_to_transform": (1, 7)}, "peft_layers_to_transform", "no layer 7"),
        (
            {"peft_layers_to_transform": (1,), "peft_layers_pattern": ("blocks",)},
            "peft_layers_pattern",
            "is called blocks",
        ),
        (
            {"peft_trainable_token_indices": (3, 10**6)},
            "peft_trainable_token_indices",
            "no token 1000000",
        ),
    ],
)
def test_a_layer_or_a_token_that_is_not_there_is_an_error(tiny_llama, keys, where, what):
    with pytest.raises(UserError) as caught:
        adapted(tiny_llama, lora_target_linear=True, **keys)
    (problem,) = caught.value.problems
    assert (problem.where, what in problem.what) == (where, True)


def test_patterns_match_the_ends_of_paths_as_peft_takes_them(tiny_llama):
    patterns = {r"layers\.1\.mlp\..*": 2, "q_proj": 8}
    loaded = adapted(tiny_llama, lora_target_linear=True, lora_rank_pattern=patterns)
    layers = loaded.model.get_base_model().model.layers
    ranks = [layer.mlp.up_proj.r["default"] for layer in layers]
    assert (ranks, layers[0].self_attn.q_proj.r["default"]) == ([4, 2], 8)


def test_a_feedforward_layer_of_ia3_is_one_of_its_targets(tiny_llama):
    spec = AdapterSpec(
        adapter="ia3", lora_target_modules=("q_proj", "down_proj"), feedforward_modules=("up_proj",)
    )
    with pytest.raises(UserError, match="'up_proj' is none of the layers"):
        built(tiny_llama, spec)


def test_what_peft_says_of_a_value_is_a_note(tiny_llama):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        spec = AdapterSpec(adapter="oft", lora_target_linear=True, oft_block_size=7)
        notes = built(tiny_llama, spec).notes
    assert any(note.startswith("oft: Invalid `oft_block_size` (7)!") for note in notes)


@pytest.mark.parametrize(("stabilized", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_the_scale_of_the_update(tiny_llama, stabilized, scale):
    loaded = adapted(tiny_llama, lora_target_modules=("q_proj",), peft_use_rslora=stabilized)
    layer = loaded.model.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(scale)

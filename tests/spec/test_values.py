"""Values that stand for others, values that are known and not supported, plugins, old ways."""

import pytest

from ft.runtime import UserError
from ft.spec import load_spec
from ft.spec.key_table import key_table
from ft.spec.values import NOT_SUPPORTED, READ_AS

SMALL = "base_model: some/model\nlearning_rate: 2e-4\ndatasets: [data.jsonl]\n"
LIGER = "axolotl.integrations.liger.LigerPlugin"
CUT = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"


@pytest.fixture
def load(tmp_path):
    def load(text: str):
        path = tmp_path / "c.yml"
        path.write_text(SMALL + text)
        return load_spec(path)

    return load


def problem_of(load, text: str):
    with pytest.raises(UserError) as caught:
        load(text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in READ_AS for value in READ_AS[key]]
)
def test_a_value_that_stands_for_another_is_said(load, key, value):
    loaded = load(f"{key}: {value}\n")
    section = getattr(loaded.spec, key_table()[key].section)
    assert getattr(section, key) == READ_AS[key][value].value
    assert any(notice.startswith(f"{key}: {value} is read as") for notice in loaded.notices)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in NOT_SUPPORTED for value in NOT_SUPPORTED[key]]
)
def test_a_value_that_is_not_supported_says_what_to_use(load, key, value):
    problem = problem_of(load, f'{key}: "{value}"\n')
    assert problem.what == f"{key}: {value} is not supported"
    assert "use" in problem.fix
    assert problem.where.endswith(":4:1")


def test_no_value_is_both_right_and_wrong():
    for table in (READ_AS, NOT_SUPPORTED):
        for key, values in table.items():
            assert not set(map(str, values)) & set(key_table()[key].values), key


class TestPlugins:
    def test_those_that_change_no_number_are_accepted_and_said(self, load):
        said = "\n".join(load(f"plugins: [{LIGER}, {CUT}]\nliger_rope: true\n").notices)
        assert "plugins" in said

    @pytest.mark.parametrize("value", ["", "[]", "null"])
    def test_none_is_none(self, load, value):
        assert not load(f"plugins: {value}\n").notices

    def test_others_are_named_at_their_place(self, load):
        text = f"plugins:\n  - {LIGER}\n  - axolotl.integrations.diffusion.DiffusionPlugin\n"
        problem = problem_of(load, text)
        assert problem.where.endswith(":6:5")
        assert "DiffusionPlugin" in problem.what
        assert "remove it" in problem.fix

    def test_foreign_ones_are_foreign_code(self, load):
        assert "foreign code" in problem_of(load, "plugins: my.module.Plugin\n").fix


class TestOldWays:
    def test_batch_size(self, load):
        loaded = load("batch_size: 8\nmicro_batch_size: 2\n")
        assert loaded.spec.training.gradient_accumulation_steps == 4
        assert any("gradient_accumulation_steps: 4" in notice for notice in loaded.notices)

    def test_batch_size_that_does_not_divide(self, load):
        problem = problem_of(load, "batch_size: 7\nmicro_batch_size: 2\n")
        assert "no multiple" in problem.what
        assert "gradient_accumulation_steps" in problem.fix

    def test_batch_size_against_gradient_accumulation_steps(self, load):
        text = "batch_size: 8\nmicro_batch_size: 2\ngradient_accumulation_steps: 2\n"
        assert "given twice" in problem_of(load, text).what

    def test_tokens_by_role(self, load):
        tokens = load('tokens:\n  bos_token: "<s>"\n  pad_token: "<pad>"\n').spec.model
        assert (tokens.special_tokens.bos_token, tokens.special_tokens.pad_token) == (
            "<s>",
            "<pad>",
        )
        assert tokens.tokens == ()

    @pytest.mark.parametrize(
        ("key", "strategy", "section"),
        [
            ("evals_per_epoch", "eval_strategy", "evaluation"),
            ("saves_per_epoch", "save_strategy", "output"),
        ],
    )
    def test_zero_an_epoch_is_never(self, load, key, strategy, section):
        spec = getattr(load(f"{key}: 0\n").spec, section)
        assert getattr(spec, key) is None
        assert getattr(spec, strategy) == "no"

    def test_a_share_of_the_steps_as_warm_up(self, load):
        assert load("warmup_steps: 0.1\n").spec.training.warmup_steps == 0.1
        assert "whole number of steps" in problem_of(load, "warmup_steps: 2.5\n").what

    def test_float16_beside_fp16(self, load):
        assert load("fp16: false\nfloat16: true\n").spec.precision.fp16 is True
        assert load("float16: true\nfp16: false\n").spec.precision.fp16 is True


class TestNearlyNothing:
    @pytest.mark.parametrize(
        "text",
        [
            "dp_shard_size: 1\n",
            "tensor_parallel_size: 1\n",
            "model_config: {output_router_logits: false}\n",
            "bnb_config_kwargs: {bnb_4bit_use_double_quant: true}\n",
        ],
    )
    def test_what_is_done_anyway_loads(self, load, text):
        load(text)

    @pytest.mark.parametrize(
        "text",
        [
            "dataset_shard_num: 2\n",
            "bnb_config_kwargs: {bnb_4bit_quant_type: fp4}\n",
        ],
    )
    def test_what_is_not_done_is_an_error(self, load, text):
        assert "is not supported" in problem_of(load, text).what


class TestAttention:
    @pytest.mark.parametrize(
        "name", ["kernels-community/flash-attn3", "kernels-community/vllm-flash-attn3@main:fwd"]
    )
    def test_a_kernel_of_the_hub_is_a_value(self, load, name):
        assert load(f"attn_implementation: {name}\n").spec.model.attn_implementation == name

    def test_old_flags(self, load):
        assert load("flex_attention: true\n").spec.model.attn_implementation == "flex_attention"
        assert load("flex_attention: false\n").spec.model.attn_implementation == "auto"

    def test_a_typo_is_told_with_the_right_name(self, load):
        problem = problem_of(load, "attn_implementation: flash_atention_2\n")
        assert problem.fix == "did you mean flash_attention_2?"


@pytest.mark.parametrize(
    ("line", "missing"), [("learning_rte: 2e-4", "learning_rate"), ("bse_model: x", "base_model")]
)
def test_a_mistyped_required_key_is_one_mistake(tmp_path, line, missing):
    lines = [text for text in SMALL.splitlines() if not text.startswith(missing)]
    path = tmp_path / "c.yml"
    path.write_text("\n".join([*lines, line]) + "\n")
    with pytest.raises(UserError) as caught:
        load_spec(path)
    (problem,) = caught.value.problems
    assert problem.fix == f"did you mean {missing}?"

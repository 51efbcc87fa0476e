"""YAML + overrides -> RunSpec, or every mistake at once."""

from pathlib import Path

import pytest
import yaml

from ft.runtime import UserError
from ft.spec import RunSpec, dump_spec, flat_keys, load_spec
from ft.spec.dialect import NO_EFFECT, NOT_SUPPORTED, RENAMED
from ft.spec.document import parse_scalar
from ft.spec.runspec import sections_of_keys

SQL_YML = Path(__file__).parent.parent / "fixtures" / "sql.yml"
SMALL = """\
base_model: some/model
learning_rate: 2e-4
datasets:
  - path: data.jsonl
    type: alpaca
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "c.yml"
        path.write_text(text)
        return path

    return write


def problems_of(path: Path, arguments=()) -> list:
    with pytest.raises(UserError) as caught:
        load_spec(path, arguments)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


class TestClassicFile:
    """The fastai sql.yml, as it has been on the web since 2023."""

    def test_loads_unchanged(self):
        spec = load_spec(SQL_YML).spec
        assert spec.model.base_model == "meta-llama/Llama-2-7b-hf"
        assert spec.model.load_in_4bit
        assert spec.model.special_tokens.eos_token == "</s>"
        assert (spec.adapter.adapter, spec.adapter.lora_r, spec.adapter.lora_alpha) == (
            "qlora",
            32,
            16,
        )
        assert spec.adapter.lora_target_linear is True
        assert spec.precision.fp16 is True
        assert spec.precision.bf16 is False
        assert spec.training.learning_rate == 0.0002
        assert spec.evaluation.eval_steps == 20

    def test_empty_keys_mean_the_default(self):
        spec = load_spec(SQL_YML).spec
        assert spec.output.save_steps is None
        assert spec.evaluation.early_stopping_patience is None
        assert spec.adapter.lora_target_modules == ()

    def test_old_names_are_translated_and_said(self):
        loaded = load_spec(SQL_YML)
        assert loaded.spec.data.datasets[0].split == "validation"
        assert loaded.spec.model.attn_implementation == "flash_attention_2"
        said = "\n".join(loaded.notices)
        assert "train_on_split is called split today" in said
        assert "flash_attention is called attn_implementation today" in said

    def test_keys_that_are_off_need_no_word(self):
        said = "\n".join(load_spec(SQL_YML).notices)
        for silent in (
            "strict",
            "group_by_length",
            "sample_packing",
            "wandb",
            "deepspeed",
            "debug",
        ):
            assert silent not in said

    def test_survives_being_written_and_read_back(self, write):
        spec = load_spec(SQL_YML).spec
        assert load_spec(write(dump_spec(spec))).spec == spec


class TestOverrides:
    def test_both_spellings(self, write):
        spec = load_spec(
            write(SMALL), ["--learning-rate", "1e-4", "--lora-r=16", "--output-dir", "out"]
        ).spec
        assert spec.training.learning_rate == 1e-4
        assert spec.adapter.lora_r == 16
        assert spec.output.output_dir == "out"

    def test_reach_into_lists_and_mappings(self, write):
        arguments = ["--datasets.0.path", "other.jsonl", "--special-tokens.pad-token", "<pad>"]
        spec = load_spec(write(SMALL), arguments).spec
        assert spec.data.datasets[0].path == "other.jsonl"
        assert spec.data.datasets[0].type == "alpaca"
        assert spec.model.special_tokens.pad_token == "<pad>"

    def test_append_a_data_set(self, write):
        arguments = ["--datasets.1.path", "more.jsonl", "--datasets.1.type", "completion"]
        assert len(load_spec(write(SMALL), arguments).spec.data.datasets) == 2

    def test_a_flag_alone_is_true(self, write):
        arguments = ["--adapter", "qlora", "--load-in-4bit"]
        assert load_spec(write(SMALL), arguments).spec.model.load_in_4bit is True

    def test_lists_and_null(self, write):
        arguments = ["--lora-target-modules", "[q_proj, v_proj]", "--learning-rate", "1"]
        assert load_spec(write(SMALL), arguments).spec.adapter.lora_target_modules == (
            "q_proj",
            "v_proj",
        )
        assert (
            load_spec(
                write(SMALL + "max_steps: 5\n"), ["--max-steps", "null"]
            ).spec.training.max_steps
            is None
        )

    def test_a_wrong_one_is_named_by_its_option(self, write):
        (problem,) = problems_of(write(SMALL), ["--lora-rr", "5"])
        assert problem.where == "--lora-rr"
        assert "lora_r" in problem.fix

    def test_a_wrong_value_is_named_by_its_option(self, write):
        (problem,) = problems_of(write(SMALL), ["--lora-r", "many"])
        assert problem.where == "--lora-r"
        assert "'many'" in problem.what

    def test_an_index_that_is_not_there(self, write):
        (problem,) = problems_of(write(SMALL), ["--datasets.4.path", "x"])
        assert problem.where == "--datasets.4.path"

    def test_speak_louder_than_old_names_and_rivals_in_the_file(self):
        arguments = [
            "--attn-implementation",
            "sdpa",
            "--datasets.0.split",
            "train",
            "--bf16",
            "true",
        ]
        spec = load_spec(SQL_YML, arguments).spec
        assert spec.model.attn_implementation == "sdpa"
        assert spec.data.datasets[0].split == "train"
        assert (spec.precision.bf16, spec.precision.fp16) == (True, None)
        assert load_spec(SQL_YML, ["--bf16", "false"]).spec.precision.fp16 is True

    @pytest.mark.parametrize("text", ["run #3", "2024-01-02", "123", "on", "a: b", "@x", "010"])
    def test_a_text_is_taken_as_typed(self, write, text):
        assert load_spec(write(SMALL), ["--output-dir", text]).spec.output.output_dir == text

    def test_an_empty_text_is_no_default(self, write):
        (problem,) = problems_of(write(SMALL), ["--output-dir", ""])
        assert problem.what == "the value is empty"


class TestMistakes:
    def test_all_at_once_with_places_in_order(self, write):
        path = write(
            "base_model: x\n"
            "lora_alhpa: 16\n"
            "datasets:\n"
            "  - path: a.jsonl\n"
            "    typ: alpaca\n"
            "micro_batch_size: -2\n"
            "bf16: maybe\n"
        )
        found = problems_of(path)
        assert [p.where.rsplit("c.yml", 1)[1] for p in found] == [
            ":1:1",
            ":2:1",
            ":5:5",
            ":6:1",
            ":7:1",
        ]
        assert "learning_rate is missing" in found[0].what
        assert "did you mean lora_alpha?" in found[1].fix
        assert "did you mean type?" in found[2].fix
        assert "expected at least 1" in found[3].what
        assert "true or false or 'auto' or 'full'" in found[4].what

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("", "empty"),
            ("- a\n- b\n", "got a list"),
            ("base_model: x\nbase_model: y\n", "duplicate key 'base_model', first given in line 1"),
            ("base_model:\tx\n\tlearning_rate: 1\n", "not valid YAML"),
            ("base_model: [x\n", "not valid YAML"),
            ("base_model: !!python/object:os.system x\n", "not valid YAML"),
            ("base_model: \x07\n", "not valid YAML"),
            ("? [a, b]\n: x\n", "a key must be a text"),
            ("base_model: &a {x: *a}\n", "nested too deeply"),
            ("base_model: " + "[" * 3000 + "\n", "nested too deeply"),
        ],
    )
    def test_files_that_are_no_config(self, write, text, what):
        assert what in problems_of(write(text))[0].what

    def test_no_file(self, tmp_path):
        (tmp_path / "sql.yml").write_text("")
        (problem,) = problems_of(tmp_path / "sqll.yml")
        assert problem.what == "no such file"
        assert "sql.yml" in problem.fix

    def test_not_text(self, tmp_path):
        (tmp_path / "c.yml").write_bytes(b"base_model: \xff\xfe\n")
        assert "UTF-8" in problems_of(tmp_path / "c.yml")[0].what

    def test_an_alias_bomb_ends(self, write):
        bomb = "a0: &a0 [x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
        )
        assert "values" in problems_of(write(bomb))[0].what

    def test_wrong_types_are_not_coerced(self, write):
        (problem,) = problems_of(write(SMALL + 'lora_r: "16"\n'))
        assert "got '16'" in problem.what

    def test_a_key_inside_a_mapping_layout(self, write):
        path = write(
            SMALL.replace("type: alpaca", "type: {format: '{instruction}', fild_input: x}")
        )
        (problem,) = problems_of(path)
        assert problem.what == "unknown key 'fild_input'"

    @pytest.mark.parametrize(
        ("lines", "what"),
        [
            ("load_in_4bit: true\nload_in_8bit: true\nadapter: lora\n", "both on"),
            ("adapter: qlora\n", "needs a 4-bit base"),
            ("load_in_4bit: true\n", "nothing is left to train"),
            ("bf16: true\nfp16: true\n", "both on"),
            ("warmup_steps: 3\nwarmup_ratio: 0.1\n", "both given"),
            ("eval_steps: 3\nevals_per_epoch: 1\n", "both given"),
            ("save_steps: 3\nsave_strategy: epoch\n", "otherwise"),
            ("early_stopping_patience: 3\n", "held-out"),
            ("val_set_size: 0.1\ntest_datasets: [{path: t.jsonl, type: alpaca}]\n", "both name"),
            ("flash_attention: true\nattn_implementation: sdpa\n", "given twice"),
            ("sample_packing: true\ngroup_by_length: true\n", "both on"),
        ],
    )
    def test_contradictions(self, write, lines, what):
        (problem,) = problems_of(write(SMALL + lines))
        assert what in problem.what
        assert problem.where

    def test_what_is_not_built_yet_says_so(self, write):
        (problem,) = problems_of(write(SMALL + "s2_attention: true\n"))
        assert problem.what == "s2_attention is not supported"
        assert "use attn_implementation: auto" in problem.fix
        load_spec(write(SMALL + "s2_attention: false\ngptq:\n"))

    def test_keys_without_effect_are_said_once(self, write):
        notices = load_spec(write(SMALL + "wandb_watch: gradients\nwandb_log_model:\n")).notices
        assert len(notices) == 1
        assert "trackers get metrics" in notices[0]


class TestTables:
    def test_no_key_has_two_states(self):
        works = set(sections_of_keys())
        tables = [works, set(RENAMED), set(NO_EFFECT), set(NOT_SUPPORTED)]
        for i, one in enumerate(tables):
            for other in tables[i + 1 :]:
                assert not one & other

    def test_old_names_lead_to_keys_that_work(self):
        assert {rename.new for rename in RENAMED.values()} <= set(sections_of_keys())

    def test_every_key_is_documented(self):
        for section in RunSpec.model_fields.values():
            for key, field in section.annotation.model_fields.items():
                assert field.description, key


def test_a_mistyped_value_gets_a_guess(write):
    (problem,) = problems_of(write(SMALL + "optimizer: adamw_tort\n"))
    assert problem.fix == "did you mean adamw_torch?"


@pytest.mark.parametrize(
    ("line", "value"), [("eval_strategy: no", "no"), ("eval_strategy: 'no'", "no")]
)
def test_no_is_a_strategy(write, line, value):
    assert load_spec(write(SMALL + line + "\n")).spec.evaluation.eval_strategy == value


def test_adapter_none_means_all_parameters(write):
    assert load_spec(write(SMALL + "adapter: none\n")).spec.adapter.adapter is None


@pytest.mark.parametrize(
    ("text", "value"), [("010", 10), ("10", 10), ("1:30", "1:30"), ("2024-01-02", "2024-01-02")]
)
def test_numbers_are_those_of_yaml_1_2(text, value):
    assert parse_scalar(text) == value


@pytest.mark.parametrize("text", ["2e-4", "2.0e-4", "0.0002", ".2e-3", "+2E-4", "0.20e-3"])
def test_floats(text):
    assert parse_scalar(text) == 2e-4


def test_scientific_notation_is_a_number(write):
    assert load_spec(write(SMALL)).spec.training.learning_rate == 2e-4
    assert yaml.safe_load("2e-4") == "2e-4", "PyYAML reads numbers now: our resolver can go"


def test_merge_keys(write):
    path = write(
        "base_model: x\n"
        "learning_rate: 1e-3\n"
        "datasets:\n"
        "  - &first\n"
        "    path: a.jsonl\n"
        "    type: alpaca\n"
        "  - <<: *first\n"
        "    path: b.jsonl\n"
    )
    sets = load_spec(path).spec.data.datasets
    assert [(entry.path, entry.type) for entry in sets] == [
        ("a.jsonl", "alpaca"),
        ("b.jsonl", "alpaca"),
    ]


def test_spec_is_frozen(write):
    spec = load_spec(write(SMALL)).spec
    with pytest.raises(ValueError, match="frozen"):
        spec.training.learning_rate = 1.0


def test_flat_keys_are_the_dialects(write):
    flat = flat_keys(load_spec(write(SMALL)).spec)
    assert flat["learning_rate"] == 2e-4
    assert set(flat) == set(sections_of_keys())

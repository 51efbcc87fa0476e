"""Files for preference tuning: `ft preview` reads them, everything else refuses them by name."""

import pytest

from ft.cli.explain import explain
from ft.runtime import UserError
from ft.spec import load_spec

START = "base_model: x\nlearning_rate: 1e-4\n"
PLAIN = "datasets:\n  - path: d.jsonl\n    type: chatml.intel\n"
MAPPING = "datasets:\n  - path: d.jsonl\n    type:\n      field_chosen: better\n"


@pytest.fixture
def load(tmp_path):
    def load_text(text, *arguments, **options):
        path = tmp_path / "run.yml"
        path.write_text(START + text)
        return load_spec(path, arguments, **options)

    return load_text


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        *[(f"rl: {name}\n", name) for name in ("dpo", "ipo", "simpo", "orpo", "kto")],
        ("reward_model: true\n", "reward_model"),
        ("process_reward_model: true\n", "process_reward_model"),
        ("rl:\nreward_model: false\n", None),
    ],
)
def test_what_a_file_asks_for(load, text, objective):
    assert load(text + PLAIN, for_preview=True).spec.preference.objective == objective


@pytest.mark.parametrize("text", ["rl: dpo\n", "reward_model: true\n"])
def test_it_is_refused_where_it_stands_and_preview_is_named(load, text):
    with pytest.raises(UserError) as caught:
        load(text + PLAIN)
    (problem,) = caught.value.problems
    assert problem.where.endswith("run.yml:3:1")
    assert f"{text.strip()} asks for preference tuning, which is not built yet" in problem.what
    assert "`ft preview " in problem.fix


def test_an_option_is_refused_as_well(load):
    with pytest.raises(UserError) as caught:
        load(PLAIN, "--rl", "kto")
    assert caught.value.problems[0].where == "--rl"


def test_what_belongs_to_preference_tuning_is_one_error_with_it(load):
    text = f"rl: dpo\nrl_beta: 0.1\nmax_prompt_len: 512\n{PLAIN}"
    with pytest.raises(UserError) as caught:
        load(text)
    assert len(caught.value.problems) == 1
    (notice,) = load(text, for_preview=True).notices
    assert "no effect here: rl_beta, max_prompt_len" in notice


def test_and_an_error_without_it(load):
    with pytest.raises(UserError, match="rl_beta is not supported"):
        load(f"rl_beta: 0.1\n{PLAIN}", for_preview=True)


def test_a_mapping_of_preferences_is_for_preferences(load):
    entry = load(f"rl: dpo\n{MAPPING}", for_preview=True).spec.data.datasets[0]
    assert entry.type.field_chosen == "better"
    with pytest.raises(UserError, match="which supervised tuning does not read"):
        load(MAPPING, for_preview=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rl: grpo\n", "rl: grpo is not supported"),
        ("rl: dop\n", "rl: "),
        ("rl: dpo\nreward_model: true\n", "more than one of rl, reward_model and"),
    ],
)
def test_what_is_wrong_even_in_a_preview(load, text, says):
    with pytest.raises(UserError) as caught:
        load(text + PLAIN, for_preview=True)
    (problem,) = caught.value.problems
    assert says in problem.what


@pytest.mark.parametrize("key", ["rl", "reward_model", "process_reward_model"])
def test_explain_is_honest(key):
    first, why = explain(key)
    assert first == f"{key}: not supported"
    assert "`ft preview`" in why

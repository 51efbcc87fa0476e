"""Which tool a file belongs to, files that are broken, secrets, and the YAML that is written."""

import pytest

from ft.runtime.errors import UserError
from ft.spec.conversion import Setting, convert, write_yaml
from ft.spec.document import read_document

LLAMA_FACTORY = "model_name_or_path: a/b\nstage: sft\ntemplate: qwen\nlearning_rate: 1e-4\n"
TRL = "model_name_or_path: a/b\ndataset_name: a/c\nuse_peft: true\n"


def write(folder, text, name="theirs.yaml"):
    (folder / name).write_text(text)
    return folder / name


def refused(folder, text, name="theirs.yaml", tool=None):
    with pytest.raises(UserError) as raised:
        convert(write(folder, text, name), tool)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "name", "tool"),
    [
        (LLAMA_FACTORY, "a.yaml", "LLaMA-Factory"),
        (TRL, "a.yml", "TRL"),
        ("model_name: a/b\nr: 8\n", "a.yaml", "unsloth"),
        ("model: {_component_: torchtune.models.x.lora_x}\nepochs: 1\n", "a.yaml", "torchtune"),
        ("llamafactory-cli train --model_name_or_path a/b --stage sft", "a.sh", "LLaMA-Factory"),
        ("python examples/scripts/sft.py --model_name_or_path a/b", "a.txt", "TRL"),
        ('{"model_name": "a/b", "max_seq_length": 64}', "a.json", "unsloth"),
    ],
)
def test_the_tool_is_found_out(tmp_path, text, name, tool):
    assert convert(write(tmp_path, text, name)).tool == tool


def test_the_user_may_say_it(tmp_path):
    path = write(tmp_path, "model_name_or_path: a/b\nlearning_rate: 1e-4\n")
    assert convert(path, "trl").reason == "--from says so"


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("model_name_or_path: a/b\nlearning_rate: 1e-4\n", "a.yaml", "--from llama-factory|trl"),
        ("base_model: a/b\ndatasets: []\n", "a.yaml", "nothing to convert"),
        ("stage: [sft\n", "a.yaml", "a `[` without its `]`"),
        ('{"stage": "sft",}', "a.json", "a.json:1:17: not valid JSON"),
        ("[1, 2]", "a.json", "expected one object"),
        ("", "a.yaml", "the file is empty"),
        ("{}", "a.jsonl", "is data, not a tool's config"),
        ("echo hello\n", "a.sh", "holds no command with --flags"),
        ("trl sft --model_name_or_path 'a/b\n", "a.sh", "not a command line: No closing quotation"),
        ("trl sft --config none.yaml\n", "a.sh", "no such file"),
    ],
)
def test_broken_files(tmp_path, monkeypatch, text, name, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(tmp_path, text, name)


def test_a_tool_that_is_not_known(tmp_path):
    assert "did you mean unsloth?" in refused(tmp_path, LLAMA_FACTORY, tool="unslot")


def test_no_such_file(tmp_path):
    for name in ("none.yaml", "none.json", "none.sh"):
        with pytest.raises(UserError, match="no such file"):
            convert(tmp_path / name)


def test_a_broken_dataset_info(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{")
    assert "dataset_info.json: not valid JSON" in refused(tmp_path, LLAMA_FACTORY)


def test_values_that_make_no_sense_are_listed(tmp_path):
    conversion = convert(
        write(tmp_path, TRL + "learning_rate: fast\noptim: galore_adamw\nnum_train_epochs: [1]\n")
    )
    listed = {note.key: note for note in conversion.lost}
    assert listed["learning_rate"].value == "fast"
    assert "no such optimizer" in listed["optim"].why
    assert "num_train_epochs" in listed


def test_what_is_missing_is_said_in_our_words(tmp_path):
    conversion = convert(write(tmp_path, "stage: sft\ncutoff_len: 512\n"))
    assert any(what.startswith("base_model is missing") for what in conversion.lacking)
    assert any(what.startswith("datasets is missing") for what in conversion.lacking)


def test_a_typo_of_theirs_names_what_was_meant(tmp_path):
    conversion = convert(write(tmp_path, TRL + "gradient_acumulation_steps: 4\n"))
    (note,) = conversion.lost
    assert note.why == "unknown to TRL: gradient_accumulation_steps?"


@pytest.mark.parametrize(
    "line",
    [
        "hub_token: hf_abcdefghijklmnopqrstuv",
        "run_name: hf_abcdefghijklmnopqrstuv",
        "env: {WANDB_API_KEY: abcdefghijklmnopqrstuv}",
        "output_dir: https://me:abcdefghijklmnopqrstuv@example.org/x",
    ],
)
def test_secrets_go_nowhere(tmp_path, line):
    conversion = convert(write(tmp_path, f"{TRL}{line}\n"))
    assert "abcdefghijklmnopqrstuv" not in repr(conversion)
    assert any("secret" in note.why for note in conversion.lost)


# -- the YAML -----------------------------------------------------------------------------------


def test_keys_come_in_the_order_of_the_spec_with_their_remarks():
    settings = {
        "learning_rate": Setting(2e-5, "slow"),
        "base_model": Setting("a/b"),
        "datasets": Setting([{"path": Setting("a.jsonl", "mine"), "type": "alpaca"}]),
    }
    assert write_yaml(settings, ("Mine.",)) == (
        "# Mine.\n"
        "\n# The model that is tuned\n"
        "base_model: a/b\n"
        "\n# The records that it learns from\n"
        "datasets:\n"
        "  - path: a.jsonl                        # mine\n"
        "    type: alpaca\n"
        "\n# How it learns\n"
        "learning_rate: 0.00002                   # slow\n"
    )


@pytest.mark.parametrize(
    "value",
    ["2e-4", "true", "null", "", " a", "a: b", "a # b", "[x]", "{a}", "a\nb", "a\tb\n", "'", '"\\',
     "-", "?", "*a", "010", "1:30", "ü<|im_end|>\n", "a\n\n  b\nc", "a \nb\nc", "\u2028", "…",
     "!tag", "%", "@", "no", "~", "2024-01-01", "\x85a", "𝄞"],
)  # fmt: skip
def test_texts_are_read_back_as_they_were(tmp_path, value):
    entry = {"path": value, "type": {"format": value}, "data_files": [value, "b"]}
    settings = {
        "base_model": Setting(value, "remark"),
        "datasets": Setting([entry, {"path": value}]),
    }
    read = read_document(write(tmp_path, write_yaml(settings))).values
    assert read == {"base_model": value, "datasets": [entry, {"path": value}]}


@pytest.mark.parametrize("value", [2e-5, 0.1, 1e-8, 3.0, 5, 1e22, 0.30000000000000004, True, None])
def test_numbers_are_read_back_as_they_were(tmp_path, value):
    read = read_document(write(tmp_path, write_yaml({"learning_rate": Setting(value)}))).values
    assert read["learning_rate"] == value

"""`ft init`: five answers, from flags or from a person, become a config that validates."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass

import pytest

from ft.cli import main
from ft.cli.starting_data import layout_of, look_at
from ft.spec import load_spec

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ft(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Done(left.value.code, *capsys.readouterr())

    return run


def write_records(path, record, num_records=3):
    path.write_text("".join(json.dumps(record) + "\n" for _ in range(num_records)))
    return path


ALPACA = {"instruction": "say a", "input": "", "output": "a"}


def test_flags_alone_write_a_config_that_validates(tmp_path, ft):
    write_records(tmp_path / "mine.jsonl", ALPACA, 600)
    done = ft("init", "a.yml", "--base-model", "acme/base", "--data", "mine.jsonl")
    assert done.returncode == 0, done.stderr
    assert "fields instruction, input, output -> type: alpaca" in done.stdout
    assert "next: ft validate a.yml   ft preview a.yml   ft train a.yml" in done.stdout
    checked = ft("validate", "a.yml")
    assert checked.returncode == 0, checked.stderr
    assert "qlora, r 16" in checked.stdout
    spec = load_spec(tmp_path / "a.yml").spec
    assert (spec.output.output_dir, spec.data.val_set_size) == ("./a-out", 0.05)


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
@pytest.mark.parametrize("num_records", [3, 700])
def test_every_method_and_amount_of_data(tmp_path, ft, method, num_records):
    write_records(tmp_path / "mine.jsonl", ALPACA, num_records)
    done = ft(
        "init", "a.yml", "--base-model", "acme/base", "--data", "mine.jsonl", "--method", method,
        "--output-dir", "o",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loaded = load_spec(tmp_path / "a.yml")
    spec = loaded.spec
    assert loaded.notices == ()
    assert spec.adapter.adapter == (None if method == "full" else method)
    assert spec.model.load_in_4bit is (method == "qlora")
    assert spec.training.learning_rate == (2e-5 if method == "full" else 2e-4)
    assert bool(spec.data.val_set_size) is (num_records > 100)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (ALPACA, {"type": "alpaca"}),
        ({"question": "", "context": "", "answer": ""}, {"type": "context_qa.load_v2"}),
        ({"text": "a", "id": 1}, {"type": "completion"}),
        ({"messages": [{"role": "user", "content": "a"}]}, {"type": "chat_template"}),
        (
            {"conversations": [{"from": "human", "value": "a"}]},
            {"type": "chat_template", "field_messages": "conversations",
             "message_property_mappings": {"role": "from", "content": "value"}},
        ),
        ({"input_ids": [1], "labels": [1]}, {}),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, None),
        ({"title": "a", "body": "b"}, None),
    ],
)  # fmt: skip
def test_the_layout_is_seen_in_the_fields(record, expected):
    assert layout_of(record) == expected


def test_telling_names_become_a_mapping():
    layout = layout_of({"prompt": "a", "completion": "b", "id": 1})
    assert layout["type"]["field_instruction"] == "prompt"
    assert layout["type"]["field_output"] == "completion"


def test_the_length_fits_nearly_all_records(tmp_path):
    short = look_at(str(write_records(tmp_path / "a.jsonl", ALPACA, 50)))
    long = look_at(str(write_records(tmp_path / "b.jsonl", {"text": "word " * 900}, 50)))
    assert (short.sequence_len, short.num_records) == (256, 50)
    assert long.sequence_len == 2048


def test_what_is_missing_without_a_terminal_names_the_flags(tmp_path, ft):
    done = ft("init")
    assert done.returncode == 2
    assert "--base-model: the base model is missing" in done.stderr
    assert "--data: the data is missing" in done.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_answers(tmp_path, ft):
    write_records(tmp_path / "odd.jsonl", {"title": "a", "body": "b"})
    (tmp_path / "there.yml").write_text("mine\n")
    right = ("--base-model", "acme/base", "--data", "odd.jsonl")
    for arguments, says in (
        (("a.yml", *right), "--type: fields title, body\n  say how they are laid out"),
        (("a.yml", *right, "--type", "alpca"), "--type:"),
        (
            ("a.yml", *right, "--type", "titel -> body"),
            "--type: no field 'titel'\n  fields: title, body",
        ),
        (("a.yml", "--base-model", "./none", "--data", "odd.jsonl"), "--base-model:"),
        (("a.yml", "--base-model", "b", "--data", "od.jsonl"), "nearest: odd.jsonl"),
        (("a.yml", *right, "--method", "qlroa"), "did you mean qlora?"),
        (("there.yml", *right), "there.yml: is there already"),
        ((".", *right), "is a folder"),
        (("a.txt", *right), "is no YAML file by its ending"),
        (("--quickstart",), "no folder is named"),
    ):
        done = ft("init", *arguments)
        assert done.returncode == 2, arguments
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "there.yml").read_text() == "mine\n"
    assert not (tmp_path / "a.yml").exists()


def test_two_fields_of_any_name(tmp_path, ft):
    write_records(tmp_path / "odd.jsonl", {"title": "a", "body": "b"})
    done = ft(
        "init", "configs/a.yml", "--base-model", "acme/base", "--data", "odd.jsonl",
        "--type", "title -> body",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (entry,) = load_spec(tmp_path / "configs" / "a.yml").spec.data.datasets
    assert (entry.path, entry.type.field_instruction) == ("../odd.jsonl", "title")
    assert ft("validate", "configs/a.yml").returncode == 0


def test_the_schema_is_named_where_it_is(tmp_path, ft):
    write_records(tmp_path / "mine.jsonl", ALPACA)
    answers = ("--base-model", "acme/base", "--data", "mine.jsonl")
    ft("init", "a.yml", *answers)
    assert "ft schema > ft.schema.json" in (tmp_path / "a.yml").read_text()
    (tmp_path / "ft.schema.json").write_text("{}")
    ft("init", "a.yml", *answers, "--overwrite")
    first = (tmp_path / "a.yml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=ft.schema.json"


def test_questions_on_a_terminal(tmp_path):
    """Only what is not given is asked; the data tells the layout."""
    write_records(tmp_path / "mine.jsonl", ALPACA)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ft", "init", "a.yml", "--output-dir", "o"],
        cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"acme/base\nmine.jsonl\nlora\n")
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(timeout=60) == 0, said.decode()
    text = said.decode()
    assert "Base model" in text
    assert "Method (qlora, lora, full) [qlora]" in text
    assert "Layout" not in text
    assert load_spec(tmp_path / "a.yml").spec.adapter.adapter == "lora"


def test_the_quickstart_is_still_there(tmp_path, ft):
    done = ft("init", "--quickstart", "try")
    assert done.returncode == 0, done.stderr
    assert "next: ft train try/sql.yml" in done.stdout
    assert (tmp_path / "try" / "train.jsonl").exists()

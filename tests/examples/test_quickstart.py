"""The quickstart's files: made by their generators, and fit for what they are for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "quickstart"


@pytest.fixture
def generators(monkeypatch):
    """The generators' modules, as they import one another."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import make_base
    import make_data

    return make_data, make_base


def read(name):
    return [json.loads(line) for line in (FOLDER / name).read_text("utf-8").splitlines()]


def names_in(schema):
    """Of a table and its columns."""
    table, columns = re.fullmatch(r"CREATE TABLE (\w+) \((.*)\)", schema).groups()
    return {table, *(column.split()[0] for column in columns.split(", "))}


@pytest.mark.parametrize(("purpose", "num_records"), [("train", 2000), ("heldout", 200)])
def test_the_records_are_what_their_generator_makes(generators, purpose, num_records):
    make_data, _ = generators
    made = make_data.render(make_data.make_records(purpose, num_records))
    assert (FOLDER / f"{purpose}.jsonl").read_text("utf-8") == made
    assert made.count("\n") == num_records


def test_no_held_out_name_occurs_in_anything_that_is_trained_on(generators):
    _, make_base = generators
    held_out = set().union(*(names_in(record["context"]) for record in read("heldout.jsonl")))
    tuned_on = " ".join(" ".join(record.values()) for record in read("train.jsonl"))
    pretrained_on = " ".join(make_base.texts(5000))
    assert len(held_out) > 500
    assert not held_out & set(re.findall(r"\w+", tuned_on))
    assert not held_out & set(re.findall(r"\w+", pretrained_on))


def test_every_name_of_an_answer_stands_in_its_context():
    for record in read("train.jsonl") + read("heldout.jsonl"):
        unquoted = re.sub(r'"[^"]*"', "", record["answer"])
        assert set(re.findall(r"[a-z]\w*", unquoted)) <= names_in(record["context"])


def test_no_text_of_the_base_has_the_layout_of_the_task(generators):
    _, make_base = generators
    for text in make_base.texts(5000):
        assert not re.search(r"Context:|Question:|Answer:", text)
        assert not re.search(r"[?.]\n+SELECT", text)


def test_the_tokenizer_splits_names_and_gives_every_text_back(generators, tmp_path):
    _, make_base = generators
    from transformers import AutoTokenizer

    make_base.make_untrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == make_base.VOCABULARY_SIZE
    record = read("heldout.jsonl")[0]
    for text in record.values():
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert all(len(tokenizer.tokenize(name)) > 1 for name in names_in(record["context"]))


def run_ft(*arguments, folder):
    command = [sys.executable, "-m", "ft", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_two_commands_lead_to_a_model_that_answers(tmp_path):
    """All of it, as the README says: about two minutes on two cores."""
    assert run_ft("init", "--quickstart", "first", folder=tmp_path).returncode == 0
    checked = run_ft("validate", "first/sql.yml", folder=tmp_path)
    assert "2,000 records = 188 steps" in checked.stdout
    trained = run_ft("train", "first/sql.yml", folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "next: ft infer quickstart-out" in trained.stdout

    measured = run_ft("eval", "--num-records", 100, "--batch-size", 50, folder=tmp_path)
    assert measured.returncode == 0, measured.stderr
    result = json.loads((tmp_path / "quickstart-out" / "evaluation.json").read_text("utf-8"))
    assert result["base"]["exact_match"] < 0.05
    assert result["tuned"]["exact_match"] >= 0.8

    record = read("heldout.jsonl")[0]
    asked = ("--prompt", record["question"], "--field", f"context={record['context']}")
    assert run_ft("merge", "quickstart-out", folder=tmp_path).returncode == 0
    answers = [
        run_ft("infer", run, *asked, folder=tmp_path).stdout
        for run in ("quickstart-out", "quickstart-out/merged")
    ]
    assert answers[0] == answers[1]
    assert answers[0].startswith("SELECT ")


def test_init_lays_the_files_out_and_overwrites_nothing(tmp_path):
    ran = run_ft("init", "--quickstart", "first", folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "next: ft train first/sql.yml" in ran.stdout
    assert (tmp_path / "first/heldout.jsonl").read_bytes() == (
        FOLDER / "heldout.jsonl"
    ).read_bytes()
    again = run_ft("init", "--quickstart", "first", folder=tmp_path)
    assert again.returncode == 2
    assert "already" in again.stderr

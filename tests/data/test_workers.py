from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

import tiny
from ft.data.prepare import prepare_data
from ft.data.quick_tokenizer import quick
from ft.runtime.errors import MachineError, UserError
from ft.spec.runspec import DatasetSpec, DataSpec, MappingLayout

LAYOUT = MappingLayout(field_instruction="q", field_output="a", no_input_format="{instruction}:")


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    monkeypatch.setattr("ft.data.workers.SMALL", 1500)
    monkeypatch.setattr("ft.data.intake.CHUNK", 500)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.llama_tokenizer()


def write(path: Path, num_rows: int) -> Path:
    rows = [{"q": f"How many {i} ?", "a": "SELECT " * (i % 40)} for i in range(num_rows)]
    rows[num_rows // 2] = {"q": "no answer"}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def prepare(folder, tokenizer, *files, num_workers, layout=LAYOUT, on_progress=None, **keys):
    sets = tuple(DatasetSpec(path=str(file), type=layout) for file in files)
    spec = DataSpec(
        datasets=sets,
        **{"sequence_len": 40, "max_drop": 1.0, "dataset_num_proc": num_workers, **keys},
    )
    return prepare_data(spec, tokenizer=tokenizer, seed=0, base_dir=folder, on_progress=on_progress)


def test_the_number_of_workers_changes_nothing(tmp_path, tokenizer):
    files = [write(tmp_path / "a.jsonl", 1800), write(tmp_path / "b.jsonl", 700)]
    alone, several = (prepare(tmp_path, tokenizer, *files, num_workers=n) for n in (1, 2))
    assert alone.train.fingerprint() == several.train.fingerprint()
    assert alone.report == several.report
    assert [each.origin for each in alone.train] == [each.origin for each in several.train]
    assert [each.to_json() for each in alone.layouts] == [
        each.to_json() for each in several.layouts
    ]


def test_a_refusal_in_a_worker_names_the_record(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", 1800)
    with pytest.raises(UserError) as alone:
        prepare(tmp_path, tokenizer, path, num_workers=1, excess_length_strategy="raise")
    with pytest.raises(UserError) as several:
        prepare(tmp_path, tokenizer, path, num_workers=2, excess_length_strategy="raise")
    assert several.value.problems == alone.value.problems
    assert several.value.problems[0].where.startswith(f"{path}:")


def test_a_worker_that_dies_is_an_error_and_no_wait(tmp_path, tokenizer):
    text = "import os, signal\nfrom ft.data import Segment\ndef segments(r):\n"
    text += "    if '1700' in r['q']: os.kill(os.getpid(), signal.SIGKILL)\n"
    text += "    return [Segment(r['q'], is_trained=True, ends_turn=True)]\n"
    (tmp_path / "mine.py").write_text(text)
    path = write(tmp_path / "a.jsonl", 1800)
    with pytest.raises(MachineError, match=r"(?s)ended unexpectedly.*dataset_num_proc: 1"):
        prepare(tmp_path, tokenizer, path, num_workers=2, layout="mine")
    assert multiprocessing.active_children() == []


def test_an_interruption_ends_the_workers(tmp_path, tokenizer):
    def interrupt(phase, done, total):
        assert len(multiprocessing.active_children()) == 2
        raise KeyboardInterrupt

    path = write(tmp_path / "a.jsonl", 4000)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, tokenizer, path, num_workers=2, on_progress=interrupt)
    assert multiprocessing.active_children() == []


def test_few_records_start_no_workers(tmp_path, tokenizer):
    text = "import multiprocessing\nfrom ft.data import Segment\ndef segments(r):\n"
    text += "    assert multiprocessing.parent_process() is None\n"
    text += "    return [Segment(r['q'], is_trained=True, ends_turn=True)]\n"
    (tmp_path / "mine.py").write_text(text)
    path = write(tmp_path / "a.jsonl", 1400)
    prepared = prepare(tmp_path, tokenizer, path, num_workers=2, layout="mine")
    assert len(prepared.train) == 1400


@pytest.mark.parametrize("family", list(tiny.TOKENIZERS))
def test_the_quick_way_gives_the_tokenizers_own_ids(family):
    tokenizer = tiny.TOKENIZERS[family]()
    texts = ["SELECT 1", " ä\n<s></s><|im_end|>", "x" * 300, " "]
    for special in (True, False):
        options = {"add_special_tokens": special, "return_attention_mask": False}
        expected = tokenizer(texts, **options)["input_ids"]
        tokenizer(texts, truncation=True, max_length=2)  # leaves a limit in the backend
        assert quick(tokenizer)(texts, **options)["input_ids"] == expected

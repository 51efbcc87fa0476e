from __future__ import annotations

import json

import pytest

import tiny
from ft.data import prepare_data
from ft.data.control_tokens import ControlTokens
from ft.spec.runspec import DatasetSpec, DataSpec

END = "<|im_end|>"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": "plain", "b": 7, "c": None}, ""),
        ({"a": "x < y and <|im_en"}, ""),
        ({"a": f"ends here{END}"}, END),
        ({"messages": [{"role": "user", "content": f"<|im_start|>{END}"}]}, "<|im_start|>"),
        ({"parts": [["deep", {"text": END}]]}, END),
    ],
)
def test_spellings_are_found_wherever_a_record_has_text(value, found):
    assert ControlTokens(tiny.chatml_tokenizer()).first_in(value) == found


def test_records_with_them_are_counted_and_the_first_is_named(tmp_path):
    rows = [{"instruction": "a", "output": "b"} for _ in range(5)]
    rows[2]["instruction"] = f"a{END}"
    rows[4]["output"] = "<|endoftext|>"
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec(datasets=(DatasetSpec(path=str(file), type="alpaca"),), sequence_len=128)
    data = prepare_data(spec, tokenizer=tiny.chatml_tokenizer(), seed=0, base_dir=tmp_path)
    (report,) = data.report.datasets
    assert report.num_with_control_tokens == 2
    (note,) = [note for note in report.notes if "control tokens" in note]
    assert f"of 2 records (first {END} at {file}:3)" in note
    assert data.report.to_json()["datasets"][0]["num_with_control_tokens"] == 2

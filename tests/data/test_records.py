from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from ft.data.records import BrokenRecord, Origin, Record, Split
from ft.data.sources import read_records
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec

ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(10)]


def write_lines(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_rows(path: Path, rows=ROWS) -> Path:
    return write_lines(path, *(json.dumps(row).encode() for row in rows))


def read(path, base_dir=Path(), **keys):
    return list(read_records(DatasetSpec(path=str(path), **keys), base_dir))


def questions(records) -> list[str]:
    return [record.fields["question"] for record in records]


def test_an_origin_reads_as_file_and_line_or_as_row():
    assert str(Origin("data.jsonl", "data.jsonl", 812, 811)) == "data.jsonl:812"
    assert str(Origin("know_sql", "know_sql/validation", None, 17)) == "know_sql/validation row 17"


def test_json_lines_know_their_lines_and_blank_lines_are_no_records(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", b'{"q": 1}', b"", b"  ", b'{"q": 2}')
    assert read(path) == [
        Record({"q": 1}, Origin(str(path), str(path), 1, 0)),
        Record({"q": 2}, Origin(str(path), str(path), 4, 1)),
    ]


def test_bom_and_crlf_are_tolerated(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"q": "a"}\r\n{"q": "b"}\r\n')
    assert [record.fields for record in read(path)] == [{"q": "a"}, {"q": "b"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"q": 1', "not JSON"),
        (b'{"q": 1} {"q": 2}', "not JSON"),
        (b'["q"]', "not an object"),
        (b"null", "not an object"),
        (b'{"q": "\xff"}', "not UTF-8"),
        (b'{"q": "\0"}', "NUL byte"),
        (rb'{"q": "\ud83d"}', "lone surrogate"),
        (b'{"q": ' * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_costs_that_line_and_says_why(tmp_path, line, reason):
    path = write_lines(tmp_path / "a.jsonl", b'{"q": 1}', line, b'{"q": 3}')
    first, broken, last = read(path)
    assert isinstance(first, Record)
    assert isinstance(last, Record)
    assert isinstance(broken, BrokenRecord)
    assert broken.reason == reason
    assert str(broken.origin) == f"{path}:2"


def test_a_line_over_the_limit_is_measured_and_the_next_one_is_read(tmp_path):
    lines = [b'{"q": "%s"}' % (b"x" * (n - 9)) for n in (50, 51, 3_000_000, 50)]
    path = write_lines(tmp_path / "a.jsonl", *lines)
    allowed, *broken, last = read(path, max_line_bytes=50)
    assert isinstance(allowed, Record)
    assert last == Record({"q": "x" * 41}, Origin(str(path), str(path), 4, 3))
    assert [each.reason for each in broken] == ["over max_line_bytes"] * 2
    assert [each.detail.split(",")[0] for each in broken] == ["51 bytes", "3"]
    assert broken[1].detail.startswith("3,000,000 bytes, 50 allowed: ")


def test_a_last_line_over_the_limit_may_end_without_a_line_break(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"q": 1}\n' + b"x" * 99)
    (broken,) = list(read(path, max_line_bytes=20))[1:]
    assert broken.detail.startswith("99 bytes, 20 allowed")
    assert str(broken.origin) == f"{path}:2"


def test_a_limit_of_lines_has_no_effect_on_an_array_and_says_so(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"q": 1}]')
    spec = DatasetSpec(path=str(path), max_line_bytes=5)
    source = read_records(spec, tmp_path)
    assert len(list(source)) == 1
    assert "max_line_bytes has no effect" in source.notes[-1]


def test_a_json_array_knows_the_line_of_each_record(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n  {"q": 1},\n  {\n    "q": 2\n  }, {"q": 3}\n]\n')
    assert [(record.fields["q"], record.origin.line) for record in read(path)] == [
        (1, 2),
        (2, 3),
        (3, 5),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[\n  {"q": 1},\n  {"q" 2}\n]', ":3:8"),
        ('[\n  {"q": 1}\n  {"q": 2}\n]', ":3:3"),
        ('[{"q": 1}', ":1:10"),
        ("[] x", ":1:4"),
    ],
)
def test_a_broken_array_is_an_error_with_line_and_column(tmp_path, text, place):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read(path)
    assert caught.value.problems[0].where == f"{path}{place}"


def test_an_empty_array_has_no_records(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[ ]")
    assert read(path) == []


def test_json_lines_in_a_json_file(tmp_path):
    assert questions(read(write_rows(tmp_path / "a.json"))) == [row["question"] for row in ROWS]


def test_a_single_object_is_no_list_of_records(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": ROWS}, indent=1))
    with pytest.raises(UserError, match="holds one JSON object"):
        read(path)


def test_utf16_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"q": 1}'.encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16"):
        read(path)


def test_a_file_beside_the_yaml_is_found(tmp_path):
    write_rows(tmp_path / "a.jsonl")
    assert len(read("a.jsonl", base_dir=tmp_path)) == 10


@pytest.mark.parametrize("name", ["sqll.jsonl", "./sqll.jsonl"])
def test_a_missing_file_is_an_error_with_the_nearest_names(tmp_path, name):
    write_rows(tmp_path / "sql.jsonl")
    with pytest.raises(UserError, match=r"(?s)there is no file.*nearest: sql\.jsonl"):
        read(name, base_dir=tmp_path)


def test_a_name_without_a_file_is_looked_up_on_the_hub(tmp_path):
    with pytest.raises(UserError, match="HF_HUB_OFFLINE") as caught:
        read("nobody/nothing", base_dir=tmp_path)
    assert "file or folder" in caught.value.problems[0].fix


def test_any_split_of_a_single_file_is_all_of_it_and_is_noted(tmp_path):
    path = write_rows(tmp_path / "a.jsonl")
    source = read_records(DatasetSpec(path=str(path), split="validation"), tmp_path)
    assert len(list(source)) == 10
    assert source.notes == (f"{path} is a single file, so `split: validation` means all of it",)
    assert read_records(DatasetSpec(path=str(path), split="train"), tmp_path).notes == ()


@pytest.mark.parametrize(
    "text", ["train[:3]", "train[3:]", "train[2:5]", "train[10%:45%]", "train[-25%:]", "train[-3:]"]
)
def test_slices_select_what_datasets_selects(tmp_path, text):
    path = write_rows(tmp_path / "a.jsonl")
    theirs = datasets.load_dataset(
        "json", data_files=str(path), split=text, cache_dir=str(tmp_path / "cache")
    )
    assert questions(read(path, split=text)) == theirs["question"][:]


def test_a_split_that_cannot_be_read_is_an_error():
    with pytest.raises(UserError, match="can't read the split"):
        Split.parse("train[:3")


def test_data_files_by_split(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS[:2])
    write_rows(tmp_path / "b.jsonl", ROWS[2:5])
    files = {"train": ("a.jsonl",), "test": "b.jsonl"}
    assert len(read(tmp_path, data_files=files)) == 2
    assert len(read(tmp_path, data_files=files, split="test")) == 3
    assert len(read(tmp_path, data_files="*.jsonl")) == 5
    assert len(read("json", base_dir=tmp_path, data_files=("a.jsonl", "b.jsonl"))) == 5
    with pytest.raises(UserError, match=r"(?s)no split 'dev'.*train, test"):
        read(tmp_path, data_files=files, split="dev")


def test_data_files_beside_a_single_file_are_an_error(tmp_path):
    path = write_rows(tmp_path / "a.jsonl")
    write_rows(tmp_path / "b.jsonl")
    with pytest.raises(UserError, match=r"data_files stands beside a path that is a file"):
        read(path, data_files="b.jsonl")


def test_files_that_a_folder_holds_and_nobody_reads_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "a.jsonl")
    write_lines(folder / ".hidden.csv", b"q", b"1")
    assert read_records(DatasetSpec(path=str(folder)), tmp_path).notes == ()
    write_lines(folder / "b.csv", b"q", b"1")
    (note,) = read_records(DatasetSpec(path=str(folder)), tmp_path).notes
    assert note.startswith(f"{folder} holds files that are not read: b.csv; data_files")


def test_a_folder_without_the_split_names_those_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(UserError, match=r"(?s)holds no data files.*end in .*\.jsonl"):
        read(folder)
    write_rows(folder / "train.jsonl")
    write_rows(folder / "test.jsonl")
    with pytest.raises(UserError, match=r"(?s)no split 'nope'.*to one of train, test"):
        read(folder, split="nope")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".arrow", "-file.arrow"])
def test_other_formats_come_through_the_library(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"data{ending}"
    table = pa.Table.from_pylist(ROWS)
    if ending == ".csv":
        datasets.Dataset(table).to_csv(path)
    elif ending == ".parquet":
        datasets.Dataset(table).to_parquet(path)
    else:
        new = pa.ipc.new_file if "file" in ending else pa.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table)
    records = read(path, split="validation[:4]")
    assert questions(records) == ["q0", "q1", "q2", "q3"]
    assert str(records[3].origin) == f"{path} row 3"


def test_text_lines_are_records(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write_lines(tmp_path / "a.txt", b"one", b"two")
    assert [record.fields for record in read(path)] == [{"text": "one"}, {"text": "two"}]


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "dev": rows.select(range(3))}).save_to_disk(
        tmp_path / "two"
    )
    assert len(read(tmp_path / "one")) == 10
    assert len(read(tmp_path / "two", split="dev")) == 3
    with pytest.raises(UserError, match="no split 'test'"):
        read(tmp_path / "two", split="test")


@pytest.mark.parametrize(
    ("name", "content"), [("a.parquet", b"no parquet"), ("a.csv", b"q,a\n1,2\n3,4,5\n")]
)
def test_a_broken_file_is_an_error_and_nothing_else_is_said(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    code = (
        "from pathlib import Path; from ft.data.sources import read_records;"
        "from ft.spec.runspec import DatasetSpec; from ft.runtime.errors import UserError\n"
        f"try: read_records(DatasetSpec(path={str(path)!r}), Path())\n"
        "except UserError as error: print(error)"
    )
    env = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    )
    assert ran.stdout.startswith((f"can't read {path}: ", f"{path}:"))
    assert ran.stderr == ""


def test_the_library_speaks_again_when_a_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    before = logging.getLogger("datasets").level, datasets.are_progress_bars_disabled()
    read(write_lines(tmp_path / "a.csv", b"q", b"1"))
    assert before == (logging.getLogger("datasets").level, datasets.are_progress_bars_disabled())


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("Dataset 'a/aggregated' doesn't exist on the Hub", "check the name"),
        ("Dataset 'a/b' is a gated dataset on the Hub.", "ask for access"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(monkeypatch, message, advice):
    def refuse(*arguments, **options):
        raise datasets.exceptions.DatasetNotFoundError(message)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=f"(?s){advice}.*hf auth login"):
        read("a/aggregated")

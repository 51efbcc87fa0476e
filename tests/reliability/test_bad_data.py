"""Broken data files: each is refused by name, and by its line where it has lines; never a traceback."""

import bz2
import gzip
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny
from ft.data import prepare_data
from ft.data.sources import identify_source
from ft.runtime import UserError
from ft.spec import DataSpec

GOOD = b'{"instruction": "add", "input": "", "output": "5"}\n'
ARRAY = b'[\n {"instruction": "add", "input": "", "output": "5"},\n'
COLUMNS = ["instruction", "input", "output"]


def parquet():
    table = pa.table({name: ["some words"] * 5000 for name in COLUMNS})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    return buffer.getvalue()


# file name, bytes, and what is said: a place, and words in the same message
BROKEN = {
    "cut_line": ("d.jsonl", GOOD + b'{"instruction": "a", "outp', r"d\.jsonl:2.*not JSON|not JSON.*\n.*d\.jsonl:2"),
    "cut_in_a_letter": ("d.jsonl", GOOD + b'{"instruction": "\xc3', r"d\.jsonl:2"),
    "nul": ("d.jsonl", GOOD + GOOD.replace(b"add", b"a\0d"), r"NUL byte[^\n]*\n\s+\S*d\.jsonl:2"),
    "latin_1": ("d.jsonl", GOOD + GOOD.replace(b"add", b"caf\xe9"), r"not UTF-8[^\n]*\n\s+\S*d\.jsonl:2"),
    "mixed_encodings": ("d.jsonl", GOOD + '{"a": "é"}\n'.encode("utf-16-le"), r"d\.jsonl:2"),
    "utf_16": ("d.jsonl", GOOD.decode().encode("utf-16"), r"d\.jsonl.*UTF-16"),
    "utf_16_array": ("d.json", (ARRAY + b"]").decode().encode("utf-16"), r"d\.json.*UTF-16"),
    "utf_32": ("d.jsonl", GOOD.decode().encode("utf-32"), r"d\.jsonl"),
    "single_quotes": ("d.jsonl", GOOD + b"{'instruction': 'a'}\n", r"d\.jsonl:2"),
    "trailing_comma": ("d.jsonl", GOOD + b'{"instruction": "a",}\n', r"d\.jsonl:2"),
    "two_records_in_a_line": ("d.jsonl", GOOD + GOOD.strip() + GOOD, r"d\.jsonl:2"),
    "a_list_in_a_line": ("d.jsonl", GOOD + b"[1, 2]\n", r"not an object[^\n]*\n\s+\S*d\.jsonl:2"),
    "a_number_in_a_line": ("d.jsonl", GOOD + b"7\n", r"not an object[^\n]*\n\s+\S*d\.jsonl:2"),
    "null_in_a_line": ("d.jsonl", GOOD + b"null\n", r"not an object[^\n]*\n\s+\S*d\.jsonl:2"),
    "nan_for_text": ("d.jsonl", GOOD + b'{"instruction": NaN, "output": "x"}\n', r"d\.jsonl:2"),
    "duplicate_keys": ("d.jsonl", GOOD + b'{"instruction": "a", "output": "b", "output": "c"}\n',
                       r"'output'[^\n]*twice[^\n]*\n\s+\S*d\.jsonl:2|d\.jsonl:2[^\n]*'output'"),
    "huge_number": ("d.jsonl", GOOD + b'{"instruction": %s, "output": "b"}\n' % (b"9" * 5000), r"d\.jsonl:2"),
    "huge_exponent": ("d.jsonl", GOOD + b'{"instruction": 1e99999, "output": "b"}\n', r"d\.jsonl:2"),
    "lone_surrogate": ("d.jsonl", GOOD + GOOD.replace(b"add", b"\\ud83d"), r"lone surrogate[^\n]*\n\s+\S*d\.jsonl:2"),
    "lone_surrogate_in_a_key": ("d.jsonl", GOOD + GOOD.replace(b"input", b"\\ud83d"), r"d\.jsonl:2"),
    "nested_deeply": ("d.jsonl", GOOD + b'{"instruction": ' + b"[" * 100_000 + b"\n", r"d\.jsonl:2"),
    "closed_after_nesting_deeply": (
        "d.jsonl", GOOD + b'{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", r"d\.jsonl:2"),
    "a_line_of_20_mb": ("d.jsonl", GOOD + b'{"instruction": "' + b"x" * 20_000_000 + b"\n", r"d\.jsonl:2"),
    "escapes_for_the_terminal": ("d.jsonl", GOOD + b'\x1b[2J\x1b]0;owned\x07{"a": 1}\n', r"d\.jsonl:2"),
    "missing_field": ("d.jsonl", GOOD + b'{"instruction": "a"}\n', r"'output'[^\n]*\n\s+\S*d\.jsonl:2"),
    "null_field": ("d.jsonl", GOOD + b'{"instruction": "a", "output": null}\n', r"'output'[^\n]*\n\s+\S*d\.jsonl:2"),
    "empty": ("d.jsonl", b"", r"no records"),
    "blank_lines_only": ("d.jsonl", b"\n \r\n\t\n" * 50, r"no records"),
    "byte_order_mark_only": ("d.jsonl", b"\xef\xbb\xbf", r"no records"),
    "empty_array": ("d.json", b"[]", r"no records"),
    "empty_json": ("d.json", b"", r"no records"),
    "array_without_end": ("d.json", ARRAY, r"d\.json:3:1"),
    "array_cut": ("d.json", ARRAY + b' {"instruction": "a', r"d\.json:3:\d+"),
    "array_with_text_behind": ("d.json", ARRAY.rstrip(b",\n") + b"]\nx", r"d\.json:3:1"),
    "array_without_comma": ("d.json", ARRAY.rstrip(b",\n") + b"\n {}]", r"d\.json:3:2"),
    "array_nested_deeply": ("d.json", b"[" * 100_000, r"d\.json:1"),
    "array_with_a_huge_number": ("d.json", b"[" + b"9" * 5000 + b"]", r"d\.json:1"),
    "single_object": ("d.json", b'{"train": [\n{"instruction": "a"}]}', r"d\.json.*one JSON object \(train\)"),
    "ragged_csv": ("d.csv", b"instruction,input,output\na,b,c\na,b,c,d,e\n", r"d\.csv:3"),
    "csv_with_an_open_quote": ("d.csv", b'instruction,input,output\na,b,c\n"a,b,c\n', r"d\.csv"),
    "csv_in_latin_1": ("d.csv", b"instruction,input,output\na,b,caf\xe9\n", r"d\.csv.*UTF-8"),
    "csv_with_nul": ("d.csv", b"instruction,input,output\na,\0,c\n", r"d\.csv|no records|can't be used"),
    "csv_without_lines": ("d.csv", b"instruction,input,output\n", r"no records"),
    "empty_csv": ("d.csv", b"", r"d\.csv"),
    "parquet_cut": ("d.parquet", parquet()[:-100], r"d\.parquet"),
    "parquet_without_its_middle": ("d.parquet", parquet()[:500] + parquet()[-5000:], r"d\.parquet"),
    "parquet_that_is_json": ("d.parquet", GOOD, r"d\.parquet"),
    "empty_parquet": ("d.parquet", b"", r"d\.parquet"),
    "arrow_that_is_json": ("d.arrow", GOOD, r"d\.arrow"),
    "gzip_cut": ("d.jsonl.gz", gzip.compress(GOOD * 50_000)[:-200], r"d\.jsonl\.gz"),
    "gzip_that_is_json": ("d.jsonl.gz", GOOD, r"d\.jsonl\.gz"),
    "gzip_without_records": ("d.jsonl.gz", gzip.compress(b""), r"d\.jsonl\.gz|no records"),
    "bzip2_cut": ("d.jsonl.bz2", bz2.compress(os.urandom(100_000))[:-200], r"d\.jsonl\.bz2"),
    "text_in_utf_16": ("d.txt", "word\n".encode("utf-16"), r"d\.txt"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.TOKENIZERS["chatml"]()


@pytest.fixture(autouse=True)
def within_30_s():
    """A file that never ends, or a line that takes the square of its length, is a failure."""

    def hangs(*_):
        raise AssertionError("hangs")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(30)
    yield
    signal.alarm(0)


def said_of(folder, tokenizer, **entry):
    given = {"datasets": [{"path": "d.jsonl", "type": "alpaca", **entry}], "sequence_len": 64}
    spec = DataSpec.model_validate_json(json.dumps(given | {"dataset_num_proc": 1}))
    with pytest.raises(UserError) as caught:
        identify_source(spec.datasets[0], folder)  # what the cache asks first
        prepare_data(spec, tokenizer=tokenizer, seed=0, base_dir=folder)
    return "\n".join(problem.render() for problem in caught.value.problems)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, tmp_path, tokenizer, monkeypatch):
    file, content, expected = BROKEN[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_bytes(content)
    type_ = "completion" if file.endswith(".txt") else "alpaca"
    said = said_of(tmp_path, tokenizer, path=file, type=type_)
    assert re.search(expected, said), said
    assert len(said) < 5000
    assert "Traceback" not in said


def test_there_are_at_least_40():
    assert len(BROKEN) >= 40


@pytest.fixture
def special(tmp_path):
    """Files that are none, by name."""
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "nowhere.jsonl").symlink_to("not_there.jsonl")
    (tmp_path / "device.jsonl").symlink_to("/dev/zero")
    (tmp_path / "closed.jsonl").write_bytes(GOOD)
    (tmp_path / "closed.jsonl").chmod(0)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder.jsonl", "no data files"),
        ("pipe.jsonl", "a pipe or a device"),
        ("device.jsonl", "a pipe or a device"),
        ("loop.jsonl", "points to itself|no file"),
        ("nowhere.jsonl", "no file"),
        ("nul\0.jsonl", "no file"),
        ("../" * 40 + "etc/nothing.jsonl", "no file"),
    ],
)
def test_files_that_are_none(name, expected, special, tokenizer, monkeypatch):
    monkeypatch.chdir(special)
    started = time.monotonic()
    said = said_of(special, tokenizer, path=name)
    assert re.search(expected, said), said
    assert time.monotonic() - started < 10


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_file_that_may_not_be_read(special, tokenizer):
    assert stat.S_IMODE((special / "closed.jsonl").stat().st_mode) == 0
    assert "Permission denied" in said_of(special, tokenizer, path=str(special / "closed.jsonl"))


MEASURE = """
import json, sys
from pathlib import Path
import tiny
from ft.data import prepare_data
from ft.runtime import UserError
from ft.spec import DatasetSpec, DataSpec

def peak():  # getrusage would begin with what the process had that started this one
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

tokenizer = tiny.chatml_tokenizer()
entry = {"type": "alpaca", **json.loads(sys.argv[1])}
spec = lambda name: DataSpec(datasets=(DatasetSpec(path=name, **entry),), dataset_num_proc=1)
prepare_data(spec("small.jsonl"), tokenizer=tokenizer, seed=0, base_dir=Path())
before = peak()
try:
    prepare_data(spec("large.jsonl"), tokenizer=tokenizer, seed=0, base_dir=Path())
except UserError as error:
    print(str(error)[:1000])
print("PEAK", peak() - before)
"""


ASCII = b"x "
LONG_TEXTS = {
    "ascii": (ASCII, b""),
    "one_emoji": (ASCII, "🙂".encode()),
    "one_letter_outside_latin_1": (ASCII, "你".encode()),
    "chinese": ("你好".encode(), b""),
    "emojis": ("🙂".encode(), b""),
    "escapes": (rb"\n", b""),
    "half_a_pair": (ASCII, rb"\ud800"),
    "half_a_pair_raw": (ASCII, b"\xed\xa0\x80"),
    "not_utf_8": (ASCII, b"\xff"),
    "nul": (ASCII, b"\0"),
}
"""What a long text repeats, and how it ends."""

LONG_ROWS = {
    "whole": b'{"instruction": "a", "output": "%s"}\n',
    "no_output": b'{"instruction": "%s"}\n',
    "cut": b'{"instruction": "%s',
    "repeated_key": b'{"instruction": "", "instruction": "%s"}\n',
    "list": b'["%s"]\n',
}


def long_row(row, text, num_bytes):
    unit, end = LONG_TEXTS[text]
    return LONG_ROWS[row] % (unit * (num_bytes // len(unit)) + end)


def measured(folder, row, **entry):
    """What is said of a file whose second line is the row, and the bytes that it took at most."""
    (folder / "small.jsonl").write_bytes(GOOD)
    (folder / "large.jsonl").write_bytes(GOOD + row)
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(entry)],
        cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, peak = done.stdout.split("PEAK")
    assert re.search(r"large\.jsonl:2", said), said
    return said, int(peak)


@pytest.mark.slow
@pytest.mark.parametrize("text", LONG_TEXTS)
@pytest.mark.parametrize("row", ["whole", "cut"])
def test_a_row_of_100_mb_takes_at_most_three_times_its_size_in_memory(row, text, tmp_path):
    signal.alarm(120)
    line = long_row(row, text, 100_000_000)
    said, peak = measured(tmp_path, line)
    assert "over max_line_bytes" in said
    assert peak <= 3 * len(line)  # 0.64 measured


def test_a_row_over_the_limit_takes_little_memory_whatever_the_limit_is(tmp_path):
    line = long_row("whole", "one_emoji", 20_000_000)
    said, peak = measured(tmp_path, line, max_line_bytes=2_000_000)
    assert "over max_line_bytes" in said
    assert "raise max_line_bytes" in said
    assert peak <= len(line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("no_output", "missing field 'output'"),
        ("cut", "not JSON"),
        ("repeated_key", "stands twice"),
        ("list", "not an object"),
    ],
)
def test_a_plain_row_of_100_mb_that_is_let_in_is_read_in_three_times_its_size(
    row, expected, tmp_path
):
    signal.alarm(300)
    line = long_row(row, "ascii", 100_000_000)
    said, peak = measured(tmp_path, line, max_line_bytes=200_000_000)
    assert expected in said
    assert peak <= 3 * len(line)

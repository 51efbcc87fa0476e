from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

import tiny
from ft.data.obtain import TokenCache, token_cache
from ft.data.prepare import LazyTokenizer, prepare_data
from ft.runtime.errors import MachineError, UserError
from ft.spec.runspec import DatasetSpec, DataSpec, MappingLayout

LAYOUT = MappingLayout(field_instruction="q", field_output="a", no_input_format="{instruction}:")
ROWS = [{"q": f"q{i}", "a": f"a{i}"} for i in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.gpt2_tokenizer()


@pytest.fixture
def data(tmp_path) -> Path:
    return write(tmp_path / "a.jsonl", ROWS)


@pytest.fixture
def tokens(tmp_path) -> TokenCache:
    return token_cache(str(tmp_path / "cache"), "a tokenizer")


def write(path: Path, rows) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def prepare(tokenizer, tokens, *files, layout=LAYOUT, seed=42, base_dir=Path(), entry=None, **keys):
    sets = tuple(DatasetSpec(path=str(file), type=layout, **(entry or {})) for file in files)
    spec = DataSpec(datasets=sets, **{"sequence_len": 64, **keys})
    return prepare_data(spec, tokenizer=tokenizer, seed=seed, base_dir=base_dir, cache=tokens)


def refuse() -> None:
    raise AssertionError("the tokenizer was loaded")


def is_hit(tokens, *files, **keys) -> bool:
    """Whether it is there already: then the tokenizer is not even loaded."""
    try:
        return prepare(LazyTokenizer(refuse), tokens, *files, **keys).report.is_from_cache
    except AssertionError:
        return False


def rows_of(part) -> list:
    return [(each.input_ids.tolist(), each.labels.tolist(), each.origin) for each in part or ()]


def test_what_is_found_is_what_was_made(tokenizer, tokens, tmp_path):
    long = {"q": "q", "a": "too long " * 50}
    data = write(tmp_path / "a.jsonl", [*ROWS, long, {"q": "q"}])
    keys = {"val_set_size": 0.2, "max_drop": 0.5, "excess_length_strategy": "drop"}
    made = prepare(tokenizer, tokens, data, **keys)
    found = prepare(LazyTokenizer(refuse), tokens, data, **keys)
    plain = prepare(tokenizer, None, data, **keys)
    assert rows_of(made.train) == rows_of(found.train) == rows_of(plain.train)
    assert rows_of(made.heldout) == rows_of(found.heldout) == rows_of(plain.heldout)
    prints = {each.train.fingerprint() for each in (made, found, plain)}
    assert len(prints) == 1
    assert found.report.datasets == made.report.datasets == plain.report.datasets
    assert found.report.render()[:-1] == made.report.render()[:-1]
    assert found.report.render()[-1].endswith("(tokens from the cache)")
    assert [each.to_json() for each in found.layouts] == [each.to_json() for each in made.layouts]
    assert found.train.num_trained_tokens == plain.train.num_trained_tokens
    assert found.entries == made.entries


def test_what_comes_behind_the_cache_hits(tokenizer, tokens, data):
    prepare(tokenizer, tokens, data)
    assert is_hit(tokens, data, seed=7)
    assert is_hit(tokens, data, val_set_size=0.5)
    assert is_hit(tokens, data, shuffle_merged_datasets=False)
    assert is_hit(tokens, data, max_drop=0.9)
    assert is_hit(tokens, data, dataset_num_proc=1)
    os.utime(data, (1, 1))
    assert is_hit(tokens, data)


@pytest.mark.parametrize(
    "keys",
    [
        {"sequence_len": 65},
        {"train_on_inputs": True},
        {"excess_length_strategy": "truncate"},
        {"eot_tokens": ("x",)},
        {"layout": LAYOUT.model_copy(update={"no_input_format": "{instruction} :"})},
        {"layout": LAYOUT.model_copy(update={"system_prompt": "Be short."})},
        {"entry": {"split": "train[:10]"}},
        {"entry": {"ds_type": "json"}},
    ],
)
def test_whatever_may_change_tokens_is_made_anew(tokenizer, tokens, data, keys):
    prepare(tokenizer, tokens, data)
    assert is_hit(tokens, data)
    assert not is_hit(tokens, data, **keys)
    prepare(tokenizer, tokens, data, **keys)
    assert is_hit(tokens, data, **keys)
    assert is_hit(tokens, data)


def test_one_changed_byte_and_another_tokenizer_are_made_anew(tokenizer, tokens, data):
    prepare(tokenizer, tokens, data)
    assert not is_hit(replace(tokens, tokenizer_identity="another tokenizer"), data)
    text = data.read_text()
    data.write_text(text.replace("a19", "b19"))
    assert not is_hit(tokens, data)
    data.write_text(text)
    assert is_hit(tokens, data)


def test_order_and_number_of_data_sets_count(tokenizer, tokens, data, tmp_path):
    other = write(tmp_path / "b.jsonl", ROWS[:5])
    prepare(tokenizer, tokens, data, other)
    assert is_hit(tokens, data, other)
    assert not is_hit(tokens, other, data)
    assert not is_hit(tokens, data)


def test_held_out_sets_have_an_entry_of_their_own(tokenizer, tokens, data, tmp_path):
    test = (DatasetSpec(path=str(write(tmp_path / "b.jsonl", ROWS[:5])), type=LAYOUT),)
    made = prepare(tokenizer, tokens, data, test_datasets=test)
    assert len(made.entries) == 2
    assert is_hit(tokens, data)
    assert is_hit(tokens, data, test_datasets=test)
    write(tmp_path / "b.jsonl", ROWS[:6])
    assert not is_hit(tokens, data, test_datasets=test)
    assert is_hit(tokens, data)


def test_a_file_that_was_moved_hits_and_is_called_by_its_new_name(tokenizer, tokens, data):
    rows = [*ROWS, {"q": "q"}]
    write(data, rows)
    prepare(tokenizer, tokens, data, max_drop=0.5)
    moved = data.rename(data.with_name("moved.jsonl"))
    found = prepare(LazyTokenizer(refuse), tokens, moved, max_drop=0.5)
    assert {each.origin.file for each in found.train} == {str(moved)}
    text = json.dumps(found.report.to_json()) + "".join(found.report.render())
    assert str(moved) in text
    assert str(data) not in text


def test_a_folder_counts_with_all_its_files(tokenizer, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", ROWS[:10])
    prepare(tokenizer, tokens, folder)
    assert is_hit(tokens, folder)
    write(folder / "b.jsonl", ROWS[10:])
    assert not is_hit(tokens, folder)


def test_a_strategy_file_counts_with_what_it_imports_from_its_folder(tokenizer, tokens, data):
    folder = data.parent
    text = "from ft.data import Segment\nimport json\nimport wording_of_mine\n"
    text += "def segments(r):\n    return [Segment(r['q'] + wording_of_mine.SIGN), "
    text += "Segment(r['a'], is_trained=True, ends_turn=True)]\n"
    (folder / "wording_of_mine.py").write_text("SIGN = ':'\n")
    (folder / "mine.py").write_text(text)
    keys = {"layout": "mine", "base_dir": folder}
    made = prepare(tokenizer, tokens, data, **keys)
    found = prepare(LazyTokenizer(refuse), tokens, data, **keys)
    assert found.report.datasets == made.report.datasets
    assert found.layouts[0].source == made.layouts[0].source
    (folder / "wording_of_mine.py").write_text("SIGN = '?'\n")
    assert not is_hit(tokens, data, **keys)
    (folder / "wording_of_mine.py").write_text("SIGN = ':'\n")
    assert is_hit(tokens, data, **keys)
    (folder / "mine.py").write_text(text.replace("r['q'] +", "'Q' + r['q'] +"))
    assert not is_hit(tokens, data, **keys)


@pytest.mark.parametrize("name", ["labels.i4", "input_ids.i4", "account.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_entry_is_said_and_made_anew(tokenizer, tokens, data, name, harm):
    made = prepare(tokenizer, tokens, data)
    file = made.entries[0] / name
    content = file.read_bytes()
    if harm == "remove":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1]) + content[middle + 1 :] if harm == "flip" else b""
        file.write_bytes(content[:middle] + flipped)
    mended = prepare(tokenizer, tokens, data)
    assert not mended.report.is_from_cache
    assert "note: the tokenized cache was damaged" in "\n".join(mended.report.render())
    assert mended.train.fingerprint() == made.train.fingerprint()
    assert is_hit(tokens, data)


def test_only_a_thorough_look_finds_what_changed_and_left_no_trace(tokenizer, tokens, data):
    file = prepare(tokenizer, tokens, data).entries[0] / "labels.i4"
    trusting = token_cache(str(tokens.entries.folder), "a tokenizer", is_thorough=False)
    before = file.stat()
    file.write_bytes(bytes(before.st_size))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_hit(trusting, data)
    assert not is_hit(tokens, data)


def test_a_file_that_was_written_to_is_read_even_by_a_trusting_cache(tokenizer, tokens, data):
    file = prepare(tokenizer, tokens, data).entries[0] / "labels.i4"
    trusting = token_cache(str(tokens.entries.folder), "a tokenizer", is_thorough=False)
    os.utime(file, (1, 1))
    assert is_hit(trusting, data)
    file.write_bytes(bytes(file.stat().st_size))
    assert not is_hit(trusting, data)


def test_a_folder_that_cannot_be_written_is_done_without(tokenizer, data, tmp_path):
    (tmp_path / "file").touch()
    tokens = token_cache(str(tmp_path / "file" / "cache"), "a tokenizer")
    prepared = prepare(tokenizer, tokens, data)
    (note,) = prepared.report.notes
    assert note.startswith("nothing is cached: ")
    assert (len(prepared.train), prepared.entries) == (20, ())


def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(tokenizer, tokens, data, monkeypatch):
    def is_full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", is_full)
        with pytest.raises(MachineError, match=r"no space left.*tokenized cache"):
            prepare(tokenizer, tokens, data)
    assert [path.suffix for path in tokens.entries.folder.iterdir()] == [".lock"]
    assert not prepare(tokenizer, tokens, data).report.is_from_cache


def test_an_error_while_making_leaves_nothing(tokenizer, tokens, data):
    write(data, [*ROWS, {"q": "q", "a": "too long " * 50}])
    with pytest.raises(UserError, match="sequence_len is 64"):
        prepare(tokenizer, tokens, data, excess_length_strategy="raise")
    assert [path.suffix for path in tokens.entries.folder.iterdir()] == [".lock"]


def test_losses_over_max_drop_are_refused_by_a_hit_too(tokenizer, tokens, data):
    write(data, [*ROWS, {"q": "q"}])
    for _ in range(2):
        with pytest.raises(UserError, match="max_drop allows"):
            prepare(tokenizer, tokens, data)
    assert is_hit(tokens, data, max_drop=0.5)


SLOW = """
import time
from pathlib import Path
from ft.data import Segment
seen = Path(__file__).with_name("seen")
def segments(record):
    with seen.open("a") as file:
        file.write("x")
    time.sleep(0.02)
    return [Segment(record["q"]), Segment(record["a"], is_trained=True, ends_turn=True)]
"""


def start(folder: Path, tokenizer):
    """Another process that prepares the folder's data; and where it tells what came of it."""
    (folder / "slow.py").write_text(SLOW)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=prepare_and_tell, args=(folder, tokenizer, there)
    )
    with warnings.catch_warnings():  # libraries have threads, which a copy of this process lacks
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    there.close()
    return process, here


def prepare_and_tell(folder, tokenizer, there):
    tokens = token_cache(str(folder / "cache"), "a tokenizer")
    prepared = prepare(tokenizer, tokens, folder / "a.jsonl", layout="slow", base_dir=folder)
    there.send((prepared.report.is_from_cache, prepared.train.fingerprint()))


def test_two_processes_make_it_once(tokenizer, data, tmp_path):
    both = [start(tmp_path, tokenizer), start(tmp_path, tokenizer)]
    results = sorted(here.recv() for _, here in both)
    for process, _ in both:
        process.join()
    assert [is_from_cache for is_from_cache, _ in results] == [False, True]
    assert results[0][1] == results[1][1]
    # Once each, and a few times more to find the layout's fields.
    assert len(ROWS) <= len((tmp_path / "seen").read_text()) < 2 * len(ROWS)


def test_a_kill_while_making_leaves_nothing_that_is_found(tokenizer, data, tmp_path):
    process, _ = start(tmp_path, tokenizer)
    while not (tmp_path / "seen").exists() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    folder = tmp_path / "cache"
    assert any(path.name.startswith(".tmp-") for path in folder.iterdir())
    process, here = start(tmp_path, tokenizer)
    assert here.recv()[0] is False
    process.join()
    (entry,) = (path for path in folder.iterdir() if path.suffix != ".lock")
    assert not entry.name.startswith(".")


def test_a_hub_set_is_told_by_the_librarys_fingerprint(tokenizer, tokens, monkeypatch):
    revisions = {"main": datasets.Dataset.from_list(ROWS)}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, split: revisions["main"])
    prepare(tokenizer, tokens, "somebody/records")
    assert is_hit(tokens, "somebody/records")
    revisions["main"] = datasets.Dataset.from_list([*ROWS, {"q": "new", "a": "new"}])
    assert not is_hit(tokens, "somebody/records")

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import datasets
import numpy as np
import pytest

import tiny
from ft.data import prepare_data
from ft.data.cache import EntryCache
from ft.data.obtain import TokenCache
from ft.data.prepare import LazyTokenizer, heldout_size, shuffled_order
from ft.data.segments import IGNORE_INDEX
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec, DataSpec, MappingLayout

LAYOUT = MappingLayout(field_instruction="q", field_output="a", no_input_format="{instruction}:")
GOOD = [{"q": f"q{i}", "a": f"a{i}"} for i in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.gpt2_tokenizer()


def write(path: Path, rows) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def prepare(folder, tokenizer, *files, layout=LAYOUT, seed=42, allow_code=None, **keys):
    sets = tuple(DatasetSpec(path=str(file), type=layout) for file in files)
    keys = {"sequence_len": 64, **keys}
    return prepare_data(
        DataSpec(datasets=sets, **keys),
        tokenizer=tokenizer,
        seed=seed,
        base_dir=folder,
        allow_code=allow_code,
    )


def questions(examples, tokenizer) -> list[str]:
    return [tokenizer.decode(example.input_ids).split(":")[0] for example in examples]


@pytest.mark.parametrize(("num_rows", "seed"), [(1, 0), (10, 42), (1000, 7)])
def test_the_order_is_that_of_datasets(num_rows, seed):
    rows = datasets.Dataset.from_dict({"i": list(range(num_rows))})
    assert rows.shuffle(seed=seed)["i"][:] == shuffled_order(num_rows, seed).tolist()


@pytest.mark.parametrize("val_set_size", [0.01, 0.1, 0.33, 0.5, 0.9, 3])
def test_the_split_is_that_of_datasets(tmp_path, tokenizer, val_set_size):
    path = write(tmp_path / "a.jsonl", GOOD)
    prepared = prepare(tmp_path, tokenizer, path, val_set_size=val_set_size)
    theirs = datasets.Dataset.from_list(GOOD).shuffle(seed=42)
    theirs = theirs.train_test_split(test_size=val_set_size, shuffle=False)
    assert questions(prepared.train, tokenizer) == theirs["train"]["q"][:]
    assert questions(prepared.heldout, tokenizer) == theirs["test"]["q"][:]


def test_data_sets_are_merged_in_order_and_lost_rows_do_not_move_the_others(tmp_path, tokenizer):
    long = {"q": "too long " * 50, "a": "a"}
    first = write(tmp_path / "a.jsonl", [*GOOD[:4], long])
    second = write(tmp_path / "b.jsonl", GOOD[4:8])
    keys = {"excess_length_strategy": "drop"}
    plain = prepare(tmp_path, tokenizer, first, second, shuffle_merged_datasets=False, **keys)
    assert questions(plain.train, tokenizer) == [f"q{i}" for i in range(8)]
    rows = [f"q{i}" for i in range(4)] + [None] + [f"q{i}" for i in range(4, 8)]
    order = [rows[i] for i in np.random.default_rng(42).permutation(9)]
    shuffled = prepare(tmp_path, tokenizer, first, second, **keys)
    assert questions(shuffled.train, tokenizer) == [name for name in order if name]


def test_an_example_knows_its_line(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", ["", *GOOD[:3]])
    (first, *_) = prepare(tmp_path, tokenizer, path, shuffle_merged_datasets=False).train
    assert str(first.origin) == f"{path}:2"
    assert first.input_ids.dtype == first.labels.dtype == np.int32
    assert tokenizer.decode(first.labels[first.labels != IGNORE_INDEX]) == "a0<|endoftext|>"


def test_lengths_and_counts_are_those_of_the_examples(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", GOOD)
    prepared = prepare(tmp_path, tokenizer, path, val_set_size=0.2)
    for part in (prepared.train, prepared.heldout):
        assert part.lengths.tolist() == [len(example.input_ids) for example in part]
        trained = sum(int((example.labels != IGNORE_INDEX).sum()) for example in part)
        assert part.num_trained_tokens == trained
        assert part.num_tokens == sum(part.lengths)
    (dataset,) = prepared.report.datasets
    parts = (prepared.train, prepared.heldout)
    assert dataset.num_tokens == sum(part.num_tokens for part in parts)
    assert dataset.num_trained_tokens == sum(part.num_trained_tokens for part in parts)


def test_the_fingerprint_is_that_of_tokens_labels_and_order(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", GOOD)
    copy = write(tmp_path / "b.jsonl", GOOD)
    first = prepare(tmp_path, tokenizer, path).train.fingerprint()
    assert first == prepare(tmp_path, tokenizer, copy).train.fingerprint()
    others = [
        prepare(tmp_path, tokenizer, path, seed=1),
        prepare(tmp_path, tokenizer, path, train_on_inputs=True),
        prepare(tmp_path, tokenizer, write(copy, [*GOOD[:-1], {"q": "q19", "a": "b"}])),
    ]
    assert len({first, *(other.train.fingerprint() for other in others)}) == 4


def test_test_datasets_are_held_out(tmp_path, tokenizer):
    train = write(tmp_path / "a.jsonl", GOOD[:10])
    test = (DatasetSpec(path=str(write(tmp_path / "b.jsonl", GOOD[10:])), type=LAYOUT),)
    prepared = prepare(tmp_path, tokenizer, train, test_datasets=test)
    assert len(prepared.train) == 10
    assert questions(prepared.heldout, tokenizer) == [f"q{i}" for i in range(10, 20)]
    with pytest.raises(UserError, match="val_set_size: 0"):
        prepare(tmp_path, tokenizer, train, test_datasets=test, val_set_size=0.1)


@pytest.mark.parametrize("val_set_size", [1.0, 20, 300])
def test_nothing_may_be_left_to_train_on(tmp_path, tokenizer, val_set_size):
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(UserError, match=r"(?s)all of the 20 rows.*up to 1 is a share.*2 or more"):
        prepare(tmp_path, tokenizer, path, val_set_size=val_set_size)


@pytest.mark.parametrize("val_set_size", [1.2, 1.9])
def test_a_number_of_rows_to_hold_out_is_whole(tmp_path, tokenizer, val_set_size):
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(UserError, match=r"(?s)no whole number of rows.*write 2; "):
        prepare(tmp_path, tokenizer, path, val_set_size=val_set_size)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_records_is_an_error(tmp_path, tokenizer, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"(?s)no records to train on.*0 records read, 0 kept"):
        prepare(tmp_path, tokenizer, path)


def test_held_out_sizes():
    assert [heldout_size(5, size) for size in (0.0, 0.01, 0.4, 1.0, 2.0)] == [0, 1, 2, 5, 2]


LONG = {"q": "q", "a": "too long " * 50}


def test_overlong_records_are_dropped_with_consent(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [*GOOD[:2], LONG, LONG])
    prepared = prepare(tmp_path, tokenizer, path, excess_length_strategy="drop")
    (report,) = prepared.report.datasets
    assert (report.num_read, report.num_kept, report.drops["too long"].count) == (4, 2, 2)
    assert f"  dropped 2: too long ({path}:3, {path}:4)" in prepared.report.render()


def test_short_records_are_left_out_with_consent(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [*GOOD[:3], {"q": "q", "a": "a longer answer"}])
    whole = prepare(tmp_path, tokenizer, path)
    least = int(max(whole.train.lengths))
    kept = prepare(tmp_path, tokenizer, path, min_sample_len=least)
    assert list(kept.train.lengths) == [least]
    assert f"fewer than {least} tokens" in "\n".join(kept.report.render())


def test_overlong_records_are_truncated_and_counted(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [*GOOD, LONG])
    prepared = prepare(tmp_path, tokenizer, path, excess_length_strategy="truncate")
    (report,) = prepared.report.datasets
    assert (report.num_kept, report.num_truncated) == (21, 1)
    assert prepared.train.lengths.max() == 64


def test_a_truncated_record_without_a_trained_token_is_lost(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [*GOOD, {"q": "too long " * 50, "a": "a"}])
    keys = {"excess_length_strategy": "truncate", "max_drop": 0.5}
    (report,) = prepare(tmp_path, tokenizer, path, **keys).report.datasets
    assert report.drops["nothing trained"].count == 1


def test_overlong_records_can_be_an_error(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [*GOOD[:2], LONG])
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, tokenizer, path, excess_length_strategy="raise")
    assert caught.value.problems[0].where == f"{path}:3"


def test_too_many_losses_are_an_error_with_counts_examples_and_the_fix(tmp_path, tokenizer):
    rows = [*GOOD, LONG, {"q": "q"}, {"q": "q", "a": None}, {"q": "q", "a": ""}, '{"q": ']
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, tokenizer, path, sequence_len=16)
    text = str(caught.value)
    assert "5 of 25 records (20.0%) can't be used; max_drop allows 1.0%" in text
    for expected in (
        "1 too long",
        "1 missing field 'a'",
        "1 field 'a' is null",
        "1 nothing trained",
        "1 broken line: not JSON",
        f"{path}:22: the record has q",
        "{'q': 'q', 'a': None}",
        "set excess_length_strategy: drop",
        "max_drop: 0.2",
    ):
        assert expected in text


def test_the_length_that_is_advised_is_enough(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"q": "long " * 40, "a": "longer " * 60}])
    with pytest.raises(UserError) as caught:
        prepare(tmp_path, tokenizer, path, sequence_len=16)
    advised = int(str(caught.value).split("raise sequence_len to ")[1].split(",")[0])
    assert len(prepare(tmp_path, tokenizer, path, sequence_len=advised).train) == 1
    with pytest.raises(UserError):
        prepare(tmp_path, tokenizer, path, sequence_len=advised - 1)


def test_a_loss_within_max_drop_is_reported_and_not_an_error(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [*GOOD, {"q": "q"}])
    prepared = prepare(tmp_path, tokenizer, path, max_drop=0.05)
    assert f"  dropped 1: missing field 'a' ({path}:21)" in prepared.report.render()
    plain = json.loads(json.dumps(prepared.report.to_json()))
    assert plain["datasets"][0]["drops"]["missing field 'a'"]["count"] == 1


def test_a_strategy_that_raises_is_named_with_its_line(tmp_path, tokenizer):
    (tmp_path / "mine.py").write_text("def segments(record):\n    return record['x']\n")
    path = write(tmp_path / "a.jsonl", GOOD[:1])
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*mine\.py:2: KeyError: 'x'"):
        prepare(tmp_path, tokenizer, path, layout="mine")


@pytest.mark.parametrize(
    "body",
    ["import sys; sys.exit(0)", "raise SystemExit"],
)
def test_a_strategy_that_exits_costs_the_record_and_not_the_program(tmp_path, tokenizer, body):
    (tmp_path / "mine.py").write_text(f"def segments(record):\n    {body}\n")
    path = write(tmp_path / "a.jsonl", GOOD[:1])
    with pytest.raises(UserError, match=r"a\.jsonl:1: .*mine\.py:2: SystemExit"):
        prepare(tmp_path, tokenizer, path, layout="mine")


def test_code_is_run_only_if_the_caller_allows_its_sum(tmp_path, tokenizer):
    canary, text = tmp_path / "canary", "def segments(record): return []\n"
    (tmp_path / "mine.py").write_text(f"open({str(canary)!r}, 'w').close()\n{text}")
    sha256 = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    path = write(tmp_path / "a.jsonl", GOOD)
    seen = []
    with pytest.raises(UserError) as caught:
        prepare(
            tmp_path,
            tokenizer,
            path,
            layout="mine",
            allow_code=lambda each: bool(seen.append(each)),
        )
    assert seen == [sha256]
    assert not canary.exists()
    for named in (str(tmp_path / "mine.py"), sha256, "--trust-remote-code"):
        assert named in str(caught.value)
    with pytest.raises(UserError, match="fewer than 2 tokens"):
        prepare(tmp_path, tokenizer, path, layout="mine", allow_code={sha256}.__contains__)
    assert canary.exists()


def test_a_first_token_is_never_predicted_so_it_is_not_trained(tmp_path, tokenizer):
    rows = [
        {"input_ids": [5, 6, 7], "labels": [5, 6, -100]},
        {"input_ids": [5, 6, 7], "labels": [5, -100, -100]},
        {"input_ids": [5], "labels": [5]},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    prepared = prepare(tmp_path, tokenizer, path, layout=None, max_drop=1.0)
    (report,) = prepared.report.datasets
    assert {reason: tally.count for reason, tally in report.drops.items()} == {
        "nothing trained": 1,
        "fewer than 2 tokens": 1,
    }
    assert prepared.train.num_trained_tokens == report.num_trained_tokens == 1


def test_tokenized_records_without_labels_are_said_to_lack_them(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"input_ids": [5, 6], "attention_mask": [1, 1]}])
    with pytest.raises(UserError, match=r"a\.jsonl:1: labels is missing"):
        prepare(tmp_path, tokenizer, path, layout=None)


def test_one_record_is_no_records(tmp_path, tokenizer):
    lines = prepare(tmp_path, tokenizer, write(tmp_path / "a.jsonl", GOOD[:1])).report.render()
    assert "1 record read, 1 kept" in lines[0]
    assert lines[-1] == "1 row to train on"
    with pytest.raises(UserError, match=r"1 of 1 record \("):
        prepare(tmp_path, tokenizer, write(tmp_path / "a.jsonl", [{}]))


def test_records_that_train_no_end_token_are_noted(tmp_path, tokenizer):
    body = "return [Segment(r['q']), Segment(r['a'], is_trained=True)]"
    text = f"from ft.data import Segment\ndef segments(r):\n    {body}\n"
    (tmp_path / "mine.py").write_text(text)
    path = write(tmp_path / "a.jsonl", GOOD)
    (report,) = prepare(tmp_path, tokenizer, path, layout="mine").report.datasets
    assert "records that train no end token: 20 of 20, so" in report.notes[-1]
    (ours,) = prepare(tmp_path, tokenizer, path).report.datasets
    assert ours.notes == []


ENDS_OTHERWISE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}<|endoftext|>\n"
    "{% endfor %}"
)
TEMPLATE = {"chat_template": "jinja", "chat_template_jinja": ENDS_OTHERWISE}
CHATS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
    for i in range(4)
]


@pytest.fixture
def prepare_chat(tmp_path):
    """Conversations whose template ends turns with a token that the tokenizer has no role for."""
    cache = TokenCache(EntryCache(tmp_path / "cache"), "chatml")

    def run(tokenizer=None, *, rows=CHATS, entry=(), template=TEMPLATE, **keys):
        path = write(tmp_path / "chats.jsonl", rows)
        entry = DatasetSpec(path=str(path), type="chat_template", **dict(entry))
        return prepare_data(
            DataSpec(datasets=(entry,), **template, **keys),
            tokenizer=tokenizer or tiny.chatml_tokenizer(),
            seed=0,
            base_dir=tmp_path,
            cache=cache,
        )

    return run


def test_an_end_that_a_template_leaves_untrained_is_an_error(prepare_chat):
    for _ in range(2):  # the tokens are in the cache the second time
        with pytest.raises(UserError, match=r"(?s)no end token is trained in 4 of 4.*eot_tokens: "):
            prepare_chat()


def test_an_end_that_is_no_token_yet_is_to_become_one(prepare_chat):
    tokenizer, chatml = tiny.gpt2_tokenizer(), {"chat_template": "chatml"}
    with pytest.raises(UserError, match=r"(?s)one token.*\n *tokens: \[.*\n *eot_tokens: \["):
        prepare_chat(tokenizer, template=chatml)
    tokenizer.add_tokens(["<|im_end|>"])  # as `tokens:` does
    (report,) = prepare_chat(tokenizer, template=chatml, eot_tokens=("<|im_end|>",)).report.datasets
    assert report.num_without_end == 0


def test_an_end_that_the_user_leaves_untrained_is_noted(prepare_chat):
    for key in ({"train_on_eos": "none"}, {"train_on_eot": "none"}):
        (report,) = prepare_chat(entry=key).report.datasets
        assert report.num_without_end == 4
        assert any("train no end token" in note for note in report.notes)


def test_what_is_wrong_with_ends_and_with_records_is_said_at_once(prepare_chat):
    with pytest.raises(UserError) as caught:
        prepare_chat(rows=[*CHATS, {"messages": None}])
    drops, ends = caught.value.problems
    assert "1 of 5 records" in drops.what
    assert "no end token" in ends.what


def test_the_tokenizer_is_loaded_for_ends_only_if_some_are_missing(prepare_chat):
    keys = {"eot_tokens": ("<|endoftext|>",)}
    prepare_chat(**keys)

    def refuse():
        raise AssertionError("nothing to ask the tokenizer")

    assert prepare_chat(LazyTokenizer(refuse), **keys).report.is_from_cache


@pytest.mark.parametrize(
    ("names", "unwritten"),
    [
        (("<|endoftext|>",), ""),
        (("<|im_end|>", "<|endoftext|>"), ""),
        (("<|endoftext|>", "<|eot_id|>"), "'<|eot_id|>'"),
    ],
)
def test_an_end_token_that_no_template_writes_is_noted(prepare_chat, names, unwritten):
    (report,) = prepare_chat(eot_tokens=names).report.datasets
    said = [note for note in report.notes if "eot_tokens: no chat template here writes" in note]
    assert ([unwritten] if unwritten else []) == [note.split()[6].rstrip(",") for note in said]


def test_a_layout_that_writes_its_own_ends_trains_them(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    path = write(tmp_path / "a.jsonl", [{"conversations": turns}])
    prepared = prepare(
        tmp_path, tiny.llama_tokenizer(), path, layout="llama2_chat", sequence_len=2048
    )
    (row,) = prepared.train
    assert row.labels[-2:].tolist() == [2, 1], "the end token, and the next turn's BOS"
    (report,) = prepared.report.datasets
    assert (report.num_without_end, report.notes) == (0, [])


@pytest.mark.parametrize(
    ("labels", "num_without_end"),
    [
        ([-100, 9, 0], 0),
        ([-100, 9, 0, 8], 0),
        ([-100, 0, 9, 9, 9, 9], 1),
        ([-100, 9, 0, -100, 9], 1),
        ([-100, 9, 9, -100, 0, -100], 0),
    ],
)
def test_an_end_is_among_the_last_trained_tokens(tmp_path, tokenizer, labels, num_without_end):
    assert tokenizer.eos_token_id == 0
    rows = [{"input_ids": [max(label, 1) for label in labels], "labels": labels}]
    path = write(tmp_path / "a.jsonl", rows)
    (report,) = prepare(tmp_path, tokenizer, path, layout=None).report.datasets
    assert report.num_without_end == num_without_end


def test_a_format_that_no_record_uses_is_noted(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"instruction": "q", "output": "a"}])
    layout = MappingLayout(format="Q: {instruction}\nA:")
    (report,) = prepare(tmp_path, tokenizer, path, layout=layout).report.datasets
    assert "not by format" in report.notes[0]


def test_progress_is_told(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", GOOD * 110)
    told = []
    prepare_data(
        DataSpec(datasets=(DatasetSpec(path=str(path), type=LAYOUT),)),
        tokenizer=tokenizer,
        seed=0,
        base_dir=tmp_path,
        on_progress=lambda what, done, total: told.append((done, total)),
    )
    assert told == [(1000, None), (2000, None), (2200, None)]


@pytest.mark.parametrize("seed", range(40))
def test_read_is_kept_plus_dropped(tmp_path, tokenizer, seed):
    draw = random.Random(seed)
    kinds = [
        lambda: {"q": "q", "a": "a" * draw.randrange(40)},
        lambda: {"q": "q " * draw.randrange(40), "a": "a"},
        lambda: {"q": "q", "a": draw.choice([None, 1, "", [], {}])},
        lambda: draw.choice([{}, {"q": "q"}, {"a": "a"}]),
        lambda: draw.choice(["{", "[]", "null", "x", '{"q": "\\ud800", "a": "a"}']),
    ]
    files, num_written = [], 0
    for name in ("a.jsonl", "b.jsonl"):
        rows = [draw.choice(kinds)() for _ in range(draw.randrange(1, 40))]
        num_written += len(rows)
        files.append(write(tmp_path / name, [GOOD[0], *rows]))
    excess = draw.choice(["drop", "truncate", None])
    val_set_size = draw.choice([0, 0.1])
    prepared = prepare(
        tmp_path,
        tokenizer,
        *files,
        sequence_len=16,
        excess_length_strategy=excess,
        val_set_size=val_set_size,
        max_drop=1.0,
    )
    reports = prepared.report.datasets
    assert sum(report.num_read for report in reports) == num_written + 2
    for report in reports:
        dropped = sum(tally.count for tally in report.drops.values())
        assert report.num_read == report.num_kept + dropped
    examples = [*prepared.train, *(prepared.heldout or [])]
    assert sum(report.num_rows for report in reports) == len(examples)
    assert all(2 <= len(example.input_ids) <= 16 for example in examples)
    assert all((example.labels != IGNORE_INDEX).any() for example in examples)

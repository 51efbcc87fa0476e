"""`ft preview` before it is shown: what it finds in records, and what it says of them."""

import json

import pytest

import tiny
from ft.data import IGNORE_INDEX, Tokens, prepare_data
from ft.data.excerpt import HEAD_TOKENS, TAIL_TOKENS, spans_of, tokens_of
from ft.data.lengths import MAX_BUCKETS, summarize_lengths
from ft.data.packing import pack
from ft.data.preview import preview_data
from ft.data.source_rows import dump_lines
from ft.spec import DatasetSpec, DataSpec, TrainingSpec

TRAINING = TrainingSpec(learning_rate=1e-4, micro_batch_size=2, gradient_accumulation_steps=2)


def record(i, answer=None):
    context = f"CREATE TABLE t{i} (c INTEGER)"
    return {"context": context, "question": "How many?", "answer": answer or f"SELECT {i}"}


def turns(*contents):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]}


@pytest.fixture
def write(tmp_path):
    def write_records(name, records):
        lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return name

    return write_records


@pytest.fixture
def preview(tmp_path):
    def run(data, tokenizer=None, **options):
        tokenizer = tokenizer or tiny.chatml_tokenizer()
        return preview_data(data, TRAINING, tokenizer=tokenizer, base_dir=tmp_path, **options)

    return run


def sql(*names, **keys):
    sets = tuple(DatasetSpec(path=name, type="context_qa.load_v2") for name in names)
    return DataSpec(datasets=sets, **keys)


def chat(name, *, entry=(), **keys):
    return DataSpec(datasets=(DatasetSpec(path=name, type="chat_template", **dict(entry)),), **keys)


# -- the account ------------------------------------------------------------------------------


def test_what_a_run_comes_to(write, preview):
    found = preview(sql(write("a.jsonl", map(record, range(10))), val_set_size=2))
    (only,) = found.sets
    steps = found.steps
    assert (only.path, only.type, only.is_heldout) == ("a.jsonl", "context_qa.load_v2", False)
    assert [str(each.origin).rpartition(":")[2] for each in only.records] == ["1", "2", "3"]
    assert only.account.lengths.num_rows == 10
    assert only.account.lengths.num_tokens == only.account.report.num_tokens
    assert (steps.num_rows, steps.num_heldout, steps.rows_per_step) == (8, 2, 4)
    assert (steps.steps_per_epoch, steps.num_steps) == (2, 2)
    assert not steps.is_packed
    assert 0 < steps.packing_efficiency <= 1
    assert not found.problems
    assert not found.warnings


@pytest.mark.parametrize(
    ("labels", "keys", "told", "counts"),
    [
        (["good", "bad", "good"], {}, ["good", "bad", "good"], {"bad": 1, "good": 2}),
        ([1, 0, 1], {"id2label": ("bad", "good")}, ["good", "bad", "good"], {"bad": 1, "good": 2}),
        ([["a"], [], ["b", "a"]], {}, ["a", "(none)", "a, b"], {"a": 2, "b": 1, "(none)": 1}),
        ([1, 2.5, -3], {}, ["1", "2.5", "-3"], {}),
    ],
    ids=["names", "numbers", "several", "regression"],
)
def test_labels_are_told_by_their_names_and_counted(write, preview, labels, keys, told, counts):
    name = write("d.jsonl", [{"text": f"a head {i}", "label": x} for i, x in enumerate(labels)])
    entry = DatasetSpec(path=name, type="classification")
    data = DataSpec(datasets=(entry,), task_type="SEQ_CLS", **keys)
    shown = preview(data, tiny.wordpiece_tokenizer())
    (of_set,) = shown.sets
    assert [row.label for each in of_set.records for row in each.rows] == told
    assert all(not row.num_trained for each in of_set.records for row in each.rows)
    assert of_set.account.report.num_of_label == counts
    assert shown.tells_labels
    assert shown.steps.num_packs is None, "rows that tell labels are never packed"


def test_rows_belong_to_their_data_set_though_two_share_a_path(write, preview):
    name = write("a.jsonl", map(record, range(6)))
    sets = (
        DatasetSpec(path=name, type="context_qa.load_v2", split="train[:2]"),
        DatasetSpec(path=name, type="context_qa.load_v2", split="train[2:]"),
    )
    found = preview(DataSpec(datasets=sets))
    assert [each.account.lengths.num_rows for each in found.sets] == [2, 4]
    assert [each.records[0].origin.row for each in found.sets] == [0, 2]


def test_repeated_rows_and_held_out_rows_that_are_trained_on(write, preview):
    train = write("a.jsonl", [record(1), record(2), record(1), record(1)])
    tests = (DatasetSpec(path=write("b.jsonl", [record(2), record(9)]), type="context_qa.load_v2"),)
    found = preview(sql(train, test_datasets=tests))
    training, heldout = (each.account.duplicates for each in found.sets)
    assert training.num_rows == 2
    assert [origin.line for origin in training.pair] == [3, 1]
    assert (heldout.num_rows, heldout.num_in_training) == (1, 1)


def test_records_that_are_cut_are_named(write, preview):
    long = turns("What is the largest city?", "Paris " * 60)
    name = write("a.jsonl", [turns("a", "b"), long])
    found = preview(chat(name, sequence_len=64, excess_length_strategy="truncate"))
    ((origin, num_tokens),) = found.sets[0].account.truncated
    assert origin.line == 2
    assert num_tokens > 64
    assert found.sets[0].account.lengths.longest == 64


@pytest.mark.parametrize("is_shuffled", [True, False])
def test_packs_and_steps_are_those_of_the_run_s_own_split(write, preview, tmp_path, is_shuffled):
    """Long records stand last, so which of them are held out decides how many packs there are."""
    records = [record(i, "SELECT " + "x " * (200 if i > 29 else 1)) for i in range(40)]
    keys = {"val_set_size": 0.25, "sequence_len": 512, "shuffle_merged_datasets": is_shuffled}
    data = sql(write("a.jsonl", records), **keys)
    tokenizer = tiny.chatml_tokenizer()
    run = prepare_data(data, tokenizer=tokenizer, seed=TRAINING.seed, base_dir=tmp_path)
    found = preview(data, tokenizer)
    assert found.steps.num_packs == pack(run.train.lengths, 512).num_packs
    assert found.steps.num_rows == len(run.train)
    assert found.sets[0].account.lengths.num_rows == 40
    lengths = [row.account.lengths.num_tokens for row in found.sets]
    assert lengths == [run.train.num_tokens + run.heldout.num_tokens]


# -- what is wrong ----------------------------------------------------------------------------


def test_data_that_trains_nothing_is_shown_all_the_same(write, preview):
    name = write("a.jsonl", [turns("a"), turns("b", "c"), turns("d")])
    found = preview(chat(name))
    assert "can't be used" in found.problems[0].what
    assert "nothing trained" in found.problems[0].fix
    assert [each.rows[0].num_trained > 0 for each in found.sets[0].records] == [False, True, False]
    assert found.sets[0].account.report.drops["nothing trained"].count == 2
    assert found.steps.num_rows == 1


def test_data_of_which_nothing_is_left_shows_its_records(write, preview):
    found = preview(chat(write("a.jsonl", [turns("a"), "{broken"])))
    assert found.problems
    assert found.steps is None
    (first, second) = found.sets[0].records
    assert first.rows[0].num_trained == 0
    assert "broken line: not JSON" in second.error


ENDS_OTHERWISE = (
    "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}<|endoftext|>\n"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("keys", "entry", "is_refused"),
    [
        ({}, {}, True),
        ({}, {"train_on_eos": "all"}, True),
        ({"eot_tokens": ("<|endoftext|>",)}, {}, False),
        ({}, {"train_on_eos": "none"}, False),
        ({"eot_tokens": ("<|im_start|>",)}, {}, False),
    ],
)
def test_an_end_that_a_template_leaves_untrained(write, preview, keys, entry, is_refused):
    name = write("a.jsonl", [turns("a", "b"), turns("c", "d")])
    template = {"chat_template": "jinja", "chat_template_jinja": ENDS_OTHERWISE}
    found = preview(chat(name, entry=entry, **template, **keys))
    assert bool(found.problems) is is_refused
    if is_refused:
        assert "eot_tokens: ['<|endoftext|>']" in found.problems[0].fix
    elif found.sets[0].account.report.num_without_end:
        assert any("no end token" in note for note in found.sets[0].account.report.notes)
    assert ["tokenizer's own" in warning for warning in found.warnings] == [True]


def test_the_tokenizers_own_template_is_no_news(write, preview):
    found = preview(chat(write("a.jsonl", [turns("a", "b")]), chat_template="chatml"))
    assert not found.warnings


# -- records as text --------------------------------------------------------------------------


def test_spans_are_the_text_and_its_labels(any_tokenizer):
    ids = any_tokenizer("The capital of France is")["input_ids"]
    answer = [*any_tokenizer(" Paris", add_special_tokens=False)["input_ids"]]
    answer.append(any_tokenizer.eos_token_id)
    row = Tokens([*ids, *answer], [IGNORE_INDEX] * len(ids) + answer)
    spans = spans_of(row, any_tokenizer)
    assert "".join(span.text for span in spans if not span.is_trained).endswith("France is")
    assert [span.text.strip() for span in spans if span.is_trained] == [
        "Paris",
        any_tokenizer.eos_token,
    ]
    assert spans[-1].is_special
    assert sum(span.num_tokens for span in spans) == len(row.input_ids)
    assert [token.id for token in tokens_of(row, any_tokenizer)] == row.input_ids


def test_long_rows_are_shortened_in_the_middle():
    tokenizer = tiny.gpt2_tokenizer()
    row = Tokens(list(range(2, 402)), [IGNORE_INDEX] * 200 + list(range(202, 402)))
    spans = spans_of(row, tokenizer)
    gaps = [span for span in spans if span.is_gap]
    assert [gap.num_tokens for gap in gaps] == [200 - HEAD_TOKENS - TAIL_TOKENS] * 2
    assert sum(span.num_tokens for span in spans) == 400


def test_many_turns_are_shortened_in_the_middle():
    labels = [id_ if id_ % 2 else IGNORE_INDEX for id_ in range(2, 102)]
    spans = spans_of(Tokens(list(range(2, 102)), labels), tiny.gpt2_tokenizer())
    assert len(spans) < 20
    assert sum(span.num_tokens for span in spans) == 100


def test_a_text_that_is_cut_into_rows_shows_the_first(write, preview):
    name = write("a.jsonl", [{"text": "SELECT COUNT(*) FROM head " * 40}])
    found = preview(
        DataSpec(datasets=(DatasetSpec(path=name, type="completion"),), sequence_len=32)
    )
    (text,) = found.sets[0].records
    assert len(text.rows) == 2
    num_rows = found.sets[0].account.lengths.num_rows
    assert num_rows > 2
    assert [row.part for row in text.rows] == [f"row {at} of {num_rows}" for at in (1, 2)]


# -- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [[5], [3, 3, 4], range(1, 1000), [*range(50, 250), 16_000]])
def test_a_histogram_counts_every_row_once(lengths):
    summary = summarize_lengths(list(lengths))
    assert sum(bucket.num_rows for bucket in summary.buckets) == len(list(lengths))
    assert len(summary.buckets) <= MAX_BUCKETS
    for before, after in zip(summary.buckets, summary.buckets[1:], strict=False):
        assert before.last + 1 == after.first
    assert summary.buckets[-1].last >= max(lengths) == summary.longest


def test_one_giant_does_not_flatten_the_others():
    summary = summarize_lengths([*range(50, 250), 16_000])
    assert sum(bucket.num_rows > 0 for bucket in summary.buckets) > 5


# -- the dump ---------------------------------------------------------------------------------


def test_the_dump_has_every_record_in_source_order(write, tmp_path):
    tokenizer = tiny.chatml_tokenizer()
    records = [record(1), "{broken", {"question": "?"}, record(2, "x " * 500), record(3)]
    tests = (DatasetSpec(path=write("b.jsonl", [record(4)]), type="context_qa.load_v2"),)
    data = sql(write("a.jsonl", records), sequence_len=256, max_drop=1.0, test_datasets=tests)
    dumped = [json.loads(line) for line in dump_lines(data, base_dir=tmp_path, tokenizer=tokenizer)]
    places = [(each["dataset"], each["row"]) for each in dumped]
    assert places == [("a.jsonl", row) for row in range(5)] + [("b.jsonl", 0)]
    assert [sorted(each) for each in dumped if "error" in each] == [["dataset", "error", "row"]] * 2
    assert "not JSON" in dumped[1]["error"]
    assert "context" in dumped[2]["error"]
    assert len(dumped[3]["input_ids"]) > 256, "before any is left out"
    in_order = data.model_copy(update={"shuffle_merged_datasets": False})
    prepared = prepare_data(in_order, tokenizer=tokenizer, seed=0, base_dir=tmp_path)
    kept = [*prepared.train, *prepared.heldout]
    for row, each in zip(kept, [dumped[0], dumped[4], dumped[5]], strict=True):
        assert row.input_ids.tolist() == each["input_ids"]
        assert row.labels.tolist() == each["labels"]


def test_a_text_that_is_cut_into_rows_is_dumped_in_parts(write, tmp_path):
    name = write("a.jsonl", [{"text": "short"}, {"text": "SELECT COUNT(*) FROM head " * 20}])
    data = DataSpec(datasets=(DatasetSpec(path=name, type="completion"),), sequence_len=32)
    lines = dump_lines(data, base_dir=tmp_path, tokenizer=tiny.chatml_tokenizer())
    short, *parts = map(json.loads, lines)
    assert "part" not in short
    assert [each["part"] for each in parts] == list(range(len(parts)))
    assert len(parts) > 1
    assert {each["row"] for each in parts} == {1}

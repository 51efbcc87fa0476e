"""`ft preview` of preference records before it is shown: what it finds, counts and doubts."""

import json

import pytest

import tiny
from ft.data.layout import StrategyOptions
from ft.data.preference import dump_preferences, preference_strategy, preview_preferences
from ft.data.segments import IGNORE_INDEX
from ft.runtime.errors import UserError
from ft.spec import DatasetSpec, DataSpec


def pair(question, chosen="4", rejected="5"):
    return {"question": question, "chosen": chosen, "rejected": rejected}


def judged(question, label):
    return {"question": question, "completion": "4", "label": label}


def conversation(chosen, rejected):
    return {
        "messages": [{"role": "user", "content": "Who?"}],
        "chosen": {"role": "assistant", "content": chosen},
        "rejected": {"role": "assistant", "content": rejected},
    }


STEPS = {"prompt": "2+2?", "completions": ["two and", "four"], "labels": [False, True]}
COMPARISON = {"input": "2+2?", "chosen": "4", "rejected": "5"}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.chatml_tokenizer()


@pytest.fixture
def data(tmp_path):
    """The data section of a file with these records."""

    def write(type_, records, name="a.jsonl", **keys):
        lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return DataSpec(datasets=(DatasetSpec(path=name, type=type_),), **keys)

    return write


@pytest.fixture
def preview(tmp_path, tokenizer):
    def run(objective, data, **options):
        options = {"tokenizer": tokenizer, "base_dir": tmp_path, **options}
        return preview_preferences(objective, data, **options)

    return run


@pytest.fixture
def dump(tmp_path, tokenizer):
    def run(objective, data):
        lines = dump_preferences(objective, data, base_dir=tmp_path, tokenizer=tokenizer)
        return [json.loads(line) for line in lines]

    return run


def trained_texts(record):
    return [
        "".join(span.text for span in row.spans if span.is_trained and not span.is_gap)
        for row in record.rows
    ]


# -- records, part by part --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "type_", "record", "parts", "trained"),
    [
        ("dpo", "chatml.intel", pair("2+2?"), ["chosen", "rejected"],
         ["4<|im_end|>", "5<|im_end|>"]),
        ("orpo", None, {"prompt": "a\n", "chosen": "b", "rejected": "c"}, ["chosen", "rejected"],
         ["b<|im_end|>", "c<|im_end|>"]),
        ("kto", "chatml.intel", judged("2+2?", True), ["completion, judged good"],
         ["4<|im_end|>"]),
        ("kto", "chatml.intel", judged("2+2?", 0), ["completion, judged bad"], ["4<|im_end|>"]),
        ("process_reward_model", "stepwise_supervised", STEPS, ["steps, labeled 0 1"], ["\n\n"]),
        ("reward_model", "bradley_terry.chat_template", COMPARISON, ["chosen", "rejected"],
         ["\n", "\n"]),
    ],
)  # fmt: skip
def test_a_record_s_parts(data, preview, objective, type_, record, parts, trained):
    found = preview(objective, data(type_, [record], chat_template="chatml"))
    (only,) = found.sets
    (shown,) = only.records
    assert [row.part for row in shown.rows] == parts
    assert trained_texts(shown) == trained
    assert not found.problems
    assert found.steps is None
    assert any("not built yet" in warning for warning in found.warnings)


def test_the_counts_are_those_of_the_rows(data, preview, dump):
    spec = data("chatml.intel", [pair(f"{n}+{n}?", "x " * n) for n in range(1, 9)])
    found = preview("dpo", spec, num_records=2)
    rows = dump("dpo", spec)
    (only,) = found.sets
    report, lengths = only.account.report, only.account.lengths
    assert len(only.records) == 2
    assert (report.num_read, report.num_kept, report.num_rows) == (8, 8, 16)
    assert report.num_tokens == lengths.num_tokens == sum(len(row["input_ids"]) for row in rows)
    trained = [label for row in rows for label in row["labels"] if label != IGNORE_INDEX]
    assert report.num_trained_tokens == len(trained)
    assert lengths.num_rows == 16


def test_judgments_are_counted(data, preview):
    found = preview("kto", data("chatml.intel", [judged("a", at < 2) for at in range(5)]))
    assert "judged good: 2, judged bad: 3" in found.sets[0].account.report.notes


def test_repeated_pairs_and_held_out_ones_that_are_trained_on(data, preview):
    spec = data("chatml.intel", [pair("a"), pair("b"), pair("a"), pair("a", rejected="6")])
    held_out = data("chatml.intel", [pair("b"), pair("c")], "b.jsonl").datasets
    found = preview("dpo", spec.model_copy(update={"test_datasets": held_out}))
    training, tests = (each.account.duplicates for each in found.sets)
    assert [origin.line for origin in training.pair] == [3, 1]
    assert training.num_rows == 2, "both parts of one pair"
    assert tests.num_in_training == 2
    assert [each.is_heldout for each in found.sets] == [False, True]


# -- what is lost, and why --------------------------------------------------------------------

BROKEN = ["{broken", {"question": "q", "chosen": "a"}, pair("q", chosen=None), pair("x " * 300)]


def test_losses_are_counted_by_reason(data, preview):
    found = preview("dpo", data("chatml.intel", [pair("a"), *BROKEN], sequence_len=64))
    (only,) = found.sets
    report = only.account.report
    assert (report.num_read, report.num_kept) == (5, 1)
    assert {reason: tally.count for reason, tally in report.drops.items()} == {
        "broken line: not JSON": 1,
        "missing field 'rejected'": 1,
        "field 'chosen' is null": 1,
        "too long": 1,
    }
    (problem,) = found.problems
    assert "4 of 5 records (80.0%) can't be used" in problem.what
    assert f"raise sequence_len to {report.longest}" in problem.fix
    assert "not JSON" in only.records[1].error


@pytest.mark.parametrize(
    ("excess", "num_kept", "num_truncated", "is_refused"),
    [(None, 1, 0, True), ("drop", 1, 0, False), ("truncate", 2, 1, False), ("raise", 1, 0, True)],
)
def test_what_becomes_of_long_answers(data, preview, excess, num_kept, num_truncated, is_refused):
    records = [pair("a"), pair("b", chosen="x " * 300)]
    keys = {"sequence_len": 64, "excess_length_strategy": excess}
    found = preview("dpo", data("chatml.intel", records, **keys))
    account = found.sets[0].account
    assert (account.report.num_kept, account.report.num_truncated) == (num_kept, num_truncated)
    assert len(found.problems) == is_refused
    if num_truncated:
        ((origin, num_tokens),) = account.truncated
        assert (origin.line, account.lengths.longest) == (2, 64)
        assert num_tokens > 300


def test_data_of_which_nothing_is_left_shows_its_records(data, preview):
    found = preview("dpo", data("chatml.intel", BROKEN, max_drop=1.0, sequence_len=64))
    (problem,) = found.problems
    assert problem.what == "no records to train on"
    assert found.sets[0].account.lengths is None
    assert len(found.sets[0].records) == 3


def test_what_is_not_there_is_an_error(data, preview):
    with pytest.raises(UserError, match="dpo has no layout"):
        preview("dpo", data("stepwise_supervised", [STEPS]))
    with pytest.raises(UserError, match="there is no file"):
        preview("dpo", DataSpec(datasets=(DatasetSpec(path="none.jsonl", type="chatml.intel"),)))


# -- what is doubtful -------------------------------------------------------------------------


def test_doubtful_records_are_counted_and_named(data, preview):
    records = [conversation("Ann", "Bob"), *[conversation("user", "Bob")] * 4]
    found = preview("dpo", data("chat_template", records, chat_template="chatml"))
    (doubt, _) = found.warnings
    assert "also stands in front of it" in doubt
    assert "4 of 5 records (" in doubt
    assert "a.jsonl:2, " in doubt
    assert doubt.endswith("a.jsonl:4, ...)")


def test_a_pair_of_equals_is_doubtful(data, preview):
    found = preview("dpo", data("chatml.intel", [pair("a"), pair("b", "4", "4")]))
    assert any("are the same" in each and "1 of 2 records" in each for each in found.warnings)


def test_a_layout_that_is_easily_mistaken_says_so(data, preview):
    record = {"prompt": "q", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]}
    found = preview("dpo", data("zephyr.nectar", [record]))
    assert any("highest rank" in note for note in found.sets[0].account.report.notes)


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_a_tokenizer_without_a_template_falls_back_on_the_one_that_is_named(objective):
    options = StrategyOptions(512, chat_template="tokenizer_default_fallback_chatml")
    spec = DatasetSpec(path="d.jsonl", type="chat_template.default")
    record = conversation("Ann", "Bob")
    bare = preference_strategy(objective, spec, options, tiny.gpt2_tokenizer())
    assert bare.render(record).prompt.startswith("<|im_start|>user\nWho?")
    own = tiny.gpt2_tokenizer()
    own.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert preference_strategy(objective, spec, options, own).render(record).prompt == "[Who?]"


# -- the dump ---------------------------------------------------------------------------------


def test_the_dump_has_every_part_in_source_order(data, dump):
    rows = dump("dpo", data("chatml.intel", [pair("a"), *BROKEN[:2], pair("b")]))
    places = [(row["row"], row.get("part")) for row in rows]
    assert places == [
        (0, "chosen"), (0, "rejected"), (1, None), (2, None), (3, "chosen"), (3, "rejected"),
    ]  # fmt: skip
    assert set(rows[0]) == {"dataset", "row", "part", "input_ids", "labels"}
    assert set(rows[2]) == {"dataset", "row", "error"}
    chosen, rejected = rows[:2]
    num_masked = chosen["labels"].count(IGNORE_INDEX)
    assert chosen["input_ids"][:num_masked] == rejected["input_ids"][:num_masked]
    assert chosen["labels"][num_masked:] == chosen["input_ids"][num_masked:]


def test_the_dump_says_how_an_answer_is_judged(data, dump):
    rows = dump("kto", data("chatml.intel", [judged("a", True), judged("a", 0)]))
    assert [(row["part"], row["label"]) for row in rows] == [
        ("completion", True),
        ("completion", False),
    ]


def test_steps_are_dumped_with_their_classes(data, dump):
    (row,) = dump("process_reward_model", data("stepwise_supervised", [STEPS]))
    assert row["part"] == "steps"
    assert [label for label in row["labels"] if label != IGNORE_INDEX] == [0, 1]

"""The built-in layouts, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from ft.data.layout import StrategyOptions
from ft.data.segments import IGNORE_INDEX, RecordError, Separate, Tokens
from ft.data.strategy import check_strategy, resolve_strategy
from ft.data.tokenize import tokenize
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec, MappingLayout

OPTIONS = StrategyOptions(sequence_len=128)


def strategy_of(layout, options=OPTIONS, tokenizer=None, **keys):
    spec = DatasetSpec(path="-", type=layout, **keys)
    return resolve_strategy(spec, Path(), tokenizer or tiny.gpt2_tokenizer(), options).strategy


def texts(layout, record, **keys) -> list[str]:
    rendered = strategy_of(layout, **keys).render(record)
    assert isinstance(rendered, Separate)
    return [segment.text for segment in rendered.segments]


CONTEXT_SYSTEM = (
    "SYSTEM: Use the following contextual information to concisely answer the question.\n\n"
)


def test_context_qa():
    record = {"article": "A", "question": "Q", "answer": "R"}
    expected = [f"{CONTEXT_SYSTEM}USER: A\n===\nQ\nASSISTANT:", "R"]
    assert texts("context_qa", record) == expected
    assert texts("context_qa.load", record) == expected


def test_context_qa_load_v2():
    record = {"context": "C", "question": "Q", "answer": "R"}
    assert texts("context_qa.load_v2", record) == ["Context: C\nQuestion: Q\n", "Answer: R"]


def test_context_qa_load_404():
    record = {"article": "A", "unanswerable_question": "Q"}
    assert texts("context_qa.load_404", record) == [
        f"{CONTEXT_SYSTEM}USER: A\n===\nQ\nASSISTANT:",
        "The context provided does not contain any information about your inquiry. Therefore, "
        "I'm unable to answer your question based on the given context.",
    ]


@pytest.mark.parametrize("record", [{}, {"input": ""}, {"input": None}])
def test_alpaca_without_input(record):
    prompt, response = texts("alpaca", {"instruction": "I", "output": "R", **record})
    assert prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nI\n\n### Response:\n"
    )
    assert response == "R"


def test_alpaca_with_input():
    prompt, _ = texts("alpaca", {"instruction": "I", "input": "X", "output": "R"})
    assert prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n"
    )


def test_a_mapping_lays_out_by_its_formats():
    layout = MappingLayout(
        field_instruction="q",
        field_output="a",
        system_prompt="S",
        system_format="[{system}] ",
        format="{instruction} ({input}) ->",
        no_input_format="{instruction} ->",
    )
    assert texts(layout, {"q": "Q", "a": "A"}) == ["[S] Q ->", "A"]
    assert texts(layout, {"q": "Q", "a": "A", "input": "I"}) == ["[S] Q (I) ->", "A"]
    assert texts(layout, {"q": "Q", "a": "A", "system": "T"}) == ["[T] Q ->", "A"]
    assert texts(layout, {"q": "Q", "a": "A", "system": ""}) == ["Q ->", "A"]


def test_a_format_does_not_read_braces_of_the_record():
    layout = MappingLayout(no_input_format="{instruction}:")
    assert texts(layout, {"instruction": "{x} {0}", "output": "R"})[0] == "{x} {0}:"


@pytest.mark.parametrize(
    ("formats", "what"),
    [
        ({"format": "{question}"}, "nothing fills {question}"),
        ({"no_input_format": "{input}"}, "nothing fills {input}"),
        ({"system_format": "{"}, "system_format"),
    ],
)
def test_a_format_that_cannot_be_filled_is_found_beforehand(formats, what):
    with pytest.raises(UserError, match=what):
        check_strategy(DatasetSpec(path="-", type=MappingLayout(**formats)), Path())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": None}, "field 'answer' is null"),
        ({"answer": 5}, "field 'answer' is no text"),
        ({"question": ["Q"]}, "field 'question' is no text"),
    ],
)
def test_a_field_that_is_no_text_is_refused(change, reason):
    with pytest.raises(RecordError) as caught:
        texts("context_qa.load_v2", {"context": "C", "question": "Q", "answer": "R", **change})
    assert caught.value.reason == reason


def test_a_missing_field_is_refused_and_those_that_are_there_are_named():
    with pytest.raises(RecordError, match=r"missing field 'article'.*context, question"):
        texts("context_qa", {"context": "C", "question": "Q"})


def test_train_on_inputs_trains_the_prompt_too():
    options = StrategyOptions(sequence_len=128, train_on_inputs=True)
    tokenizer = tiny.llama_tokenizer()
    rendered = strategy_of("alpaca", options).render({"instruction": "I", "output": "R"})
    row = tokenize([rendered], tokenizer)[0][0]
    assert row.labels == row.input_ids


def test_completion_trains_every_token_in_rows_of_sequence_len():
    tokenizer = tiny.llama_tokenizer()
    layout = strategy_of("completion", StrategyOptions(sequence_len=8), field="body")
    rows = tokenize([layout.render({"body": tiny.CORPUS[0]})], tokenizer)[0]
    ids = [token for row in rows for token in row.input_ids]
    assert ids == [*tokenizer(tiny.CORPUS[0])["input_ids"], tokenizer.eos_token_id]
    assert all(row.labels == row.input_ids and len(row.input_ids) <= 8 for row in rows)


def test_completion_is_cut_at_64_rows_and_owns_up_to_it():
    tokenizer = tiny.gpt2_tokenizer()
    layout = strategy_of("completion", StrategyOptions(sequence_len=2))
    rows = tokenize([layout.render({"text": "x y " * 500})], tokenizer)[0]
    assert len(rows) == 64
    assert rows[-1].num_wanted > len(rows[-1].input_ids)


def test_tokenized_records_are_used_as_they_are():
    record = {"input_ids": [1, 2, 3], "labels": [IGNORE_INDEX, 2, 3], "attention_mask": [1, 1, 1]}
    assert strategy_of(None).render(record) == Tokens([1, 2, 3], [IGNORE_INDEX, 2, 3])


def test_padding_of_tokenized_records_is_taken_off():
    record = {
        "input_ids": [0, 1, 2, 0],
        "labels": [-100, 1, 2, -100],
        "attention_mask": [0, 1, 1, 0],
    }
    assert strategy_of(None).render(record) == Tokens([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"text": "a"}, "missing field 'input_ids'.*set `type:`"),
        ({"input_ids": [1], "labels": [1], "attention_mask": [1, 1]}, "2 in attention_mask"),
        ({"input_ids": [1] * 3, "labels": [1] * 3, "attention_mask": [1, 0, 1]}, "hole"),
        ({"input_ids": [10**6], "labels": [1]}, "vocabulary ends"),
    ],
)
def test_unsound_tokenized_records_are_refused(record, what):
    with pytest.raises(RecordError, match=what):
        strategy_of(None).render(record)


@pytest.mark.parametrize(
    ("layout", "record", "prompt"),
    [
        ("alpaca_w_system", {"instruction": "I", "output": "R"}, "USER: I\nASSISTANT:"),
        (
            "jeopardy:chat",
            {"question": "Q", "category": None, "answer": "A"},
            "USER: Q\nASSISTANT:",
        ),
        ("alpaca_chat.load_no_prompt", {"instruction": 5, "output": "R"}, "USER: 5\nASSISTANT:"),
    ],
)
def test_optional_fields_may_be_missing_and_numbers_are_written_out(layout, record, prompt):
    assert texts(layout, record)[0].endswith(prompt)


@pytest.mark.parametrize(
    ("layout", "record", "reason"),
    [
        ("alpaca", {"instruction": None, "output": "R"}, "field 'instruction' is null"),
        ("alpaca", {"instruction": "I"}, "missing field 'output'"),
        ("concisechoice", {"question": "Q", "choices": "ab", "solution": "S"}, "no list"),
        ("concisechoice", {"question": "Q", "choices": [["a"]], "solution": "S"}, "a choice is no"),
        ("explainchoice", {"question": "Q", "choices": ["a"]}, "missing field 'explanation'"),
        ("creative_acr.load_critique", {"instruction": "I", "answer": "A"}, "field 'scores'"),
        ("input_output", {"segments": ["a"]}, "something else than objects"),
        ("input_output", {"segments": [{"label": True, "text": None}]}, "field 'text' is null"),
        ("input_output", {"text": "a"}, "missing field 'segments'"),
        ("pygmalion", {"conversations": [{"role": "gpt", "value": "a"}]}, "unknown role 'gpt'"),
    ],
)
def test_what_a_layout_cannot_use_is_refused(layout, record, reason):
    with pytest.raises(RecordError, match=reason):
        texts(layout, record)


def test_a_null_response_leaves_the_prompt_to_train_where_inputs_are_trained():
    options = StrategyOptions(sequence_len=128, train_on_inputs=True)
    record = {"instruction": "I", "output": None}
    for layout in ("alpaca", MappingLayout()):
        prompt, response = strategy_of(layout, options).render(record).segments
        assert prompt.is_trained
        assert response.text == ""


def test_unknown_styles_are_refused_and_layouts_are_named():
    with pytest.raises(UserError, match=r"(?s)no prompt strategy 'alpaca:vicuna'.*nearest: alpaca"):
        check_strategy(DatasetSpec(path="-", type="alpaca:vicuna"), Path())


def talk(*turns) -> dict:
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (talk(("human", "a")), "no question and answer"),
        (talk(("human", "a"), ("human", "b")), "do not alternate"),
        (talk(("user", "a"), ("gpt", "b")), "unknown role 'user'"),
        (talk(("human", "a"), ("gpt", "")), "no answer"),
        (talk(("human", "a"), ("gpt", "b [/INST] c")), "tokenized differently"),
    ],
)
def test_llama2_chat_refuses_what_it_cannot_mask(record, reason):
    with pytest.raises(RecordError, match=reason):
        strategy_of("llama2_chat", tokenizer=tiny.llama_tokenizer()).render(record)


def test_llama2_chat_wants_a_tokenizer_of_its_kind():
    with pytest.raises(UserError, match=r"(?s)writes <s> and </s>.*type: chat_template"):
        strategy_of("llama2_chat", tokenizer=tiny.gpt2_tokenizer())


def test_llama2_chat_is_cut_and_owns_up_to_it():
    tokenizer = tiny.llama_tokenizer()
    layout = strategy_of("llama2_chat", StrategyOptions(sequence_len=100), tokenizer)
    row = layout.render(talk(("system", "s"), ("human", "a"), ("gpt", "The capital " * 60)))
    assert len(row.input_ids) == 100
    assert row.num_wanted > 100


PROMPTS = [
    (
        "llama2_chat",
        talk(("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")),
        talk(("human", "a"), ("gpt", "b"), ("human", "c")),
    ),
    (
        "pygmalion",
        {"conversations": [{"role": "human", "value": "a"}, {"role": "bot", "value": "d"}]},
        {"conversations": [{"role": "human", "value": "a"}]},
    ),
    (
        "input_output",
        {"segments": [{"label": False, "text": "a"}, {"label": True, "text": "d"}]},
        {"segments": [{"label": False, "text": "a"}]},
    ),
]


@pytest.mark.parametrize(("layout", "record", "asked"), PROMPTS, ids=[each[0] for each in PROMPTS])
def test_a_conversation_is_asked_as_it_was_trained(layout, record, asked):
    tokenizer = tiny.llama_tokenizer()
    strategy = strategy_of(layout, StrategyOptions(512), tokenizer)
    (row,) = tokenize([strategy.render(record)], tokenizer)[0]
    start = max(p for p, label in enumerate(row.labels) if label == IGNORE_INDEX) + 1
    for given in (record, asked):
        (prompt,) = tokenize([strategy.render_prompt(given)], tokenizer)[0]
        assert prompt.input_ids == row.input_ids[:start]
    question = tokenize([strategy.render_prompt({"prompt": "a"})], tokenizer)[0][0]
    assert question.input_ids

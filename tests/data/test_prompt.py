"""The layout that travels with a run asks exactly as the run was trained."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest

import tiny
from ft.data import LayoutFields, PromptLayout, prepare_data, split_response
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec, DataSpec, MappingLayout

FIXTURES = Path(__file__).parents[1] / "fixtures"

SQL = {"context": "CREATE TABLE head (age INTEGER)", "question": "How many?", "answer": "SELECT 1"}
ALPACA = {"instruction": "Name the capital.", "input": "France", "output": "Paris."}
CHAT = {
    "messages": [
        {"role": "user", "content": "What is the largest city?"},
        {"role": "assistant", "content": "Paris."},
    ],
    "system": "Be brief.",
}

OWN = """
from ft.data import Segment

def segments(record):
    return [
        Segment(f"{record['table']}: {record['n']} {record['ask']}\\n"),
        Segment("SQL: " + record["sql"], is_trained=True, ends_turn=True),
    ]
"""


def prepare(folder: Path, record, tokenizer, layout, **keys):
    (folder / "data.jsonl").write_text(json.dumps(record) + "\n")
    spec = DatasetSpec(path="data.jsonl", type=layout, **keys)
    data = DataSpec(datasets=(spec,), sequence_len=512)
    return prepare_data(data, tokenizer=tokenizer, seed=0, base_dir=folder)


def travelled(layout: PromptLayout, allow_code=None) -> PromptLayout:
    return PromptLayout.from_json(json.loads(json.dumps(layout.to_json())), allow_code)


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        ("context_qa.load_v2", SQL),
        ("context_qa", {**SQL, "article": "A"}),
        ("context_qa.load_404", {"article": "A", "unanswerable_question": "Q"}),
        ("alpaca", ALPACA),
        ("alpaca", {**ALPACA, "input": ""}),
        (MappingLayout(no_input_format="Q: {instruction}\nA:"), ALPACA),
    ],
)
def test_the_prompt_is_what_stood_before_the_response(tmp_path, any_tokenizer, layout, record):
    prepared = prepare(tmp_path, record, any_tokenizer, layout)
    row = prepared.train[0]
    prompt_ids, response_ids = split_response(row.input_ids, row.labels)
    (trained_layout,) = prepared.layouts
    asked = {key: value for key, value in record.items() if key not in ("answer", "output")}
    assert travelled(trained_layout).encode_prompt(asked, any_tokenizer) == prompt_ids
    assert response_ids[-1] == any_tokenizer.eos_token_id


def test_a_response_prefix_is_known(tmp_path):
    prepared = prepare(tmp_path, SQL, tiny.gpt2_tokenizer(), "context_qa.load_v2")
    layout = travelled(prepared.layouts[0])
    assert layout.response_prefix == "Answer: "
    assert layout.default_field == "question"
    assert layout.prompt_fields == ("context", "question")
    assert layout.response_fields == ("answer",)


def test_a_missing_field_is_an_error_that_prints_the_option(tmp_path):
    tokenizer = tiny.gpt2_tokenizer()
    (layout,) = prepare(tmp_path, SQL, tokenizer, "context_qa.load_v2").layouts
    with pytest.raises(UserError, match=r"--field context=\.\.\."):
        layout.encode_prompt({"question": "How many?"}, tokenizer)


def test_a_prompt_longer_than_sequence_len_is_asked_whole(tmp_path):
    tokenizer = tiny.gpt2_tokenizer()
    (layout,) = prepare(tmp_path, SQL, tokenizer, "context_qa.load_v2").layouts
    ids = layout.encode_prompt({"context": "x y " * 500, "question": "How many?"}, tokenizer)
    assert "How many?" in tokenizer.decode(ids)


def test_a_chat_is_asked_by_question_or_by_history(tmp_path):
    tokenizer = tiny.chatml_tokenizer()
    prepared = prepare(tmp_path, CHAT, tokenizer, "chat_template")
    layout = travelled(prepared.layouts[0])
    prompt_ids, _ = split_response(prepared.train[0].input_ids, prepared.train[0].labels)
    asked = {"prompt": "What is the largest city?", "system": "Be brief."}
    assert layout.encode_prompt(asked, tokenizer) == prompt_ids
    history = {"messages": CHAT["messages"][:1], "system": "Be brief."}
    assert layout.encode_prompt(history, tokenizer) == prompt_ids
    assert layout.encode_prompt(CHAT, tokenizer) == prompt_ids
    theirs = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, CHAT["messages"][0]],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert prompt_ids == theirs


def test_a_chat_without_a_question_is_an_error(tmp_path):
    tokenizer = tiny.chatml_tokenizer()
    (layout,) = prepare(tmp_path, CHAT, tokenizer, "chat_template").layouts
    with pytest.raises(UserError, match="'prompt'"):
        layout.encode_prompt({}, tokenizer)


def test_a_named_chat_template_travels_with_the_run(tmp_path):
    tokenizer = tiny.gpt2_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})  # as `special_tokens:` would
    prepared = prepare(tmp_path, CHAT, tokenizer, "chat_template", chat_template="chatml")
    layout = travelled(prepared.layouts[0])
    assert "<|im_start|>" in layout.chat_template
    text = tokenizer.decode(layout.encode_prompt({"prompt": "Hi"}, tokenizer))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_model_trained_on_reasoning_begins_with_its_reasoning(tmp_path):
    tokenizer = tiny.chatml_tokenizer()
    answer = {"role": "assistant", "content": "Paris.", "why": "It is."}
    record = {"messages": [CHAT["messages"][0], answer]}
    keys = {"chat_template": "qwen3", "field_thinking": "why"}
    prepared = prepare(tmp_path, record, tokenizer, "chat_template", **keys)
    prompt_ids, _ = split_response(prepared.train[0].input_ids, prepared.train[0].labels)
    layout = travelled(prepared.layouts[0])
    assert layout.encode_prompt({"prompt": "What is the largest city?"}, tokenizer) == prompt_ids
    assert tokenizer.decode(prompt_ids).endswith("<|im_start|>assistant\n<think>\n")
    (plain,) = prepare(tmp_path, CHAT, tokenizer, "chat_template", chat_template="qwen3").layouts
    text = tokenizer.decode(travelled(plain).encode_prompt({"prompt": "Hi"}, tokenizer))
    assert text.endswith("<think>\n\n</think>\n\n")


def test_tools_are_asked_with_as_they_were_trained_with(tmp_path):
    tokenizer = tiny.chatml_tokenizer()
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    record = {**CHAT, "functions": tools}
    keys = {"chat_template": "qwen_25", "field_tools": "functions"}
    prepared = prepare(tmp_path, record, tokenizer, "chat_template", **keys)
    prompt_ids, _ = split_response(prepared.train[0].input_ids, prepared.train[0].labels)
    layout = travelled(prepared.layouts[0])
    asked = {**record, "messages": CHAT["messages"][:1]}
    assert layout.encode_prompt(asked, tokenizer) == prompt_ids
    question = {"prompt": "What is the largest city?", "system": "Be brief.", "functions": tools}
    assert layout.encode_prompt(question, tokenizer) == prompt_ids


def test_variables_of_the_template_travel_with_the_run(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps(CHAT) + "\n")
    spec = DatasetSpec(path="data.jsonl", type="chat_template")
    data = DataSpec(
        datasets=(spec,),
        chat_template="jinja",
        chat_template_jinja="{% for m in messages %}{{ mood }}: {{ m.content }}<|im_end|>{% endfor %}",
        chat_template_kwargs={"mood": "calm"},
        sequence_len=256,
    )
    tokenizer = tiny.chatml_tokenizer()
    (layout,) = prepare_data(data, tokenizer=tokenizer, seed=0, base_dir=tmp_path).layouts
    ids = travelled(layout).encode_prompt({"prompt": "Hi"}, tokenizer)
    assert tokenizer.decode(ids) == "calm: Hi<|im_end|>calm: "


def test_fields_of_the_classic_strategy_file_are_found_by_trying(tmp_path, any_tokenizer):
    record = {"id": "7", **SQL}
    layout_type = f"{FIXTURES}/context_qa2.py"
    prepared = prepare(tmp_path, record, any_tokenizer, layout_type)
    (layout,) = prepared.layouts
    assert set(layout.prompt_fields) == {"context", "question"}
    assert layout.response_fields == ("answer",)
    assert layout.default_field == "question"
    assert layout.response_prefix == ""
    row = prepared.train[0]
    asked = {"context": SQL["context"], "question": SQL["question"]}
    expected = split_response(row.input_ids, row.labels)[0]
    assert layout.encode_prompt(asked, any_tokenizer) == expected


def test_fields_and_prefix_of_an_own_strategy_are_found_by_trying(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    record = {"table": "t", "n": 3, "ask": "How many?", "sql": "SELECT 1", "unused": ["x"]}
    (layout,) = prepare(tmp_path, record, tiny.gpt2_tokenizer(), "mine").layouts
    assert layout.prompt_fields == ("table", "n", "ask")
    assert layout.response_fields == ("sql",)
    assert layout.response_prefix == "SQL: "


def test_a_strategy_that_takes_a_record_only_once_has_no_known_fields(tmp_path):
    once = "seen = []\ndef segments(record):\n    assert not seen\n    seen.append(record)\n"
    (tmp_path / "mine.py").write_text(OWN.replace("def segments(record):\n", once))
    record = {"table": "t", "n": 3, "ask": "How many?", "sql": "SELECT 1"}
    prepared = prepare(tmp_path, record, tiny.gpt2_tokenizer(), "mine")
    assert len(prepared.train) == 1
    assert prepared.layouts[0].fields == LayoutFields()


def test_code_that_travelled_is_run_only_if_the_caller_allows_it(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    tokenizer = tiny.gpt2_tokenizer()
    record = {"table": "t", "n": 3, "ask": "How many?", "sql": "SELECT 1"}
    (layout,) = prepare(tmp_path, record, tokenizer, "mine").layouts
    (tmp_path / "mine.py").unlink()
    asked = {"table": "t", "n": 3, "ask": "How many?"}
    for name in [name for name in sys.modules if name.startswith("ft_strategy_")]:
        monkeypatch.delitem(sys.modules, name)
    for refused in (travelled(layout), travelled(layout, lambda sha256: False)):
        assert refused.response_prefix == "SQL: "
        with pytest.raises(UserError, match="--trust-remote-code"):
            refused.encode_prompt(asked, tokenizer)
    assert not any(name.startswith("ft_strategy_") for name in sys.modules)
    known = {layout.source.sha256}
    allowed = travelled(layout, known.__contains__)
    assert tokenizer.decode(allowed.encode_prompt(asked, tokenizer)) == "t: 3 How many?\n"


def test_the_sum_that_the_caller_sees_is_that_of_the_text(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    record = {"table": "t", "n": 3, "ask": "How many?", "sql": "SELECT 1"}
    (layout,) = prepare(tmp_path, record, tiny.gpt2_tokenizer(), "mine").layouts
    forged = layout.to_json()
    forged["source"] = {**forged["source"], "text": "import os"}
    seen = []
    PromptLayout.from_json(forged, lambda sha256: bool(seen.append(sha256)))
    assert seen == [hashlib.sha256(b"import os").hexdigest()]


@pytest.mark.parametrize(
    "change", [{"version": 99}, {"type": 5}, {"source": {"path": "x"}}, {"prompt_fields": None}]
)
def test_a_damaged_file_is_an_error_without_a_traceback(tmp_path, change):
    (layout,) = prepare(tmp_path, SQL, tiny.gpt2_tokenizer(), "context_qa.load_v2").layouts
    with pytest.raises(UserError, match=r"prompt\.json"):
        PromptLayout.from_json({**layout.to_json(), **change})

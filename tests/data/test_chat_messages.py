"""Turns and tools, by whatever name a record calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data.test_chat import chat
from ft.data.segments import RecordError
from ft.data.strategy import check_strategy
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec

QWEN = {"chat_template": "qwen3"}
TOOL = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
ANSWER = {"role": "assistant", "content": "b"}
QUESTION = {"role": "user", "content": "a"}


def text(record, **keys):
    return chat(**keys).render(record).text


def test_tools_are_a_list_or_its_json():
    wrapped = [{"type": "function", "function": TOOL}]
    listed = text({"messages": [QUESTION, ANSWER], "tools": wrapped}, **QWEN)
    assert json.dumps(wrapped[0]) in listed
    assert text({"messages": [QUESTION, ANSWER], "tools": json.dumps(wrapped)}, **QWEN) == listed
    inner = {**TOOL, "parameters": json.dumps(TOOL["parameters"])}
    as_text = [{"type": "function", "function": inner}]
    assert text({"messages": [QUESTION, ANSWER], "tools": as_text}, **QWEN) == listed
    named = {"messages": [QUESTION, ANSWER], "functions": wrapped}
    assert text(named, field_tools="functions", **QWEN) == listed
    for empty in (None, "", []):
        assert "Tools" not in text({"messages": [QUESTION, ANSWER], "tools": empty}, **QWEN)


@pytest.mark.parametrize("tools", ["no json", {"a": 1}, ["a"], "3"])
def test_tools_that_are_none_are_a_lost_record(tools):
    with pytest.raises(RecordError, match="field 'tools' is no"):
        chat(**QWEN).render({"messages": [QUESTION, ANSWER], "tools": tools})


def test_arguments_of_calls_are_objects_or_their_json():
    def turns(arguments):
        call = {"type": "function", "function": {"name": "w", "arguments": arguments}}
        return {"messages": [QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}]}

    as_object = text(turns({"city": "Rom"}), **QWEN)
    assert '<tool_call>\n{"name": "w", "arguments": {"city": "Rom"}}\n</tool_call>' in as_object
    assert text(turns('{"city": "Rom"}'), **QWEN) == as_object
    with pytest.raises(RecordError, match="a tool call's arguments is no JSON"):
        text(turns("{city"), **QWEN)


def test_reasoning_has_names_and_can_be_split_off():
    written = "<think>\nr\n</think>\n\nb"
    assert written in text({"messages": [QUESTION, {**ANSWER, "reasoning_content": "r"}]}, **QWEN)
    renamed = {"field_thinking": "why", "template_thinking_key": "reasoning_content"}
    assert written in text({"messages": [QUESTION, {**ANSWER, "why": "r"}]}, **renamed, **QWEN)
    tagged = {"role": "assistant", "content": "<reasoning> r </reasoning>\n b"}
    assert written in text({"messages": [QUESTION, tagged]}, split_thinking=True, **QWEN)
    framed = "<think>r</think><|begin_of_solution|> b <|end_of_solution|>"
    turns = [QUESTION, {"role": "assistant", "content": framed}]
    assert written in text({"messages": turns}, split_thinking=True, **QWEN)


def test_conversations_written_as_json():
    turns = [QUESTION, ANSWER]
    assert text({"messages": json.dumps(turns)}) == text({"messages": turns})
    with pytest.raises(RecordError, match="field 'messages' is no JSON"):
        text({"messages": "[{"})


def test_llama_factory_alpaca_with_history():
    record = {
        "instruction": "Second?",
        "input": "With this.",
        "output": "Yes.",
        "system": "S",
        "history": [["First?", "No."]],
    }
    turns = [
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Second?\nWith this."},
        {"role": "assistant", "content": "Yes."},
    ]
    assert text(record) == text({"messages": turns, "system": "S"})
    with pytest.raises(RecordError, match="field 'history'"):
        text({**record, "history": ["First?"]})


def test_llama_factory_calls_and_observations():
    call = {"name": "weather", "arguments": {"city": "Rom"}}
    record = {
        "conversations": [
            {"from": "human", "value": "Sun?"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "yes"},
            {"from": "gpt", "value": "It shines."},
        ],
        "tools": json.dumps([TOOL]),
    }
    turns = [
        {"role": "user", "content": "Sun?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": call}],
        },
        {"role": "tool", "content": "yes"},
        {"role": "assistant", "content": "It shines."},
    ]
    tools = [{"type": "function", "function": TOOL}]
    assert text(record, **QWEN) == text({"messages": turns, "tools": tools}, **QWEN)
    # A template that can't write calls shows them as what the assistant says.
    assert f"assistant\n{json.dumps(call)}<|im_end|>" in text(record)
    record["conversations"][1]["value"] = "no json"
    with pytest.raises(RecordError, match="function_call is no JSON"):
        text(record, **QWEN)


def test_sharegpt_is_no_type_but_a_shape():
    with pytest.raises(UserError, match=r"type: sharegpt\.load_role is not") as caught:
        check_strategy(DatasetSpec(path="-", type="sharegpt.load_role"), Path())
    assert "type: chat_template" in str(caught.value)


def test_mapped_roles_stay_what_they_are_called():
    turns = [{"from": "observer", "value": "x"}, {"from": "gpt", "value": "y"}]
    mapping = {"role": "from", "content": "value"}
    keys = {"field_messages": "conversations", "message_property_mappings": mapping}
    assert text({"conversations": turns}, **keys).startswith("<|im_start|>observer\nx")

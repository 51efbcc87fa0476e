"""Shapes of conversations that other tools read, recognized by their fields.

ShareGPT has `conversations` of `from` and `value`; LLaMA-Factory adds the roles function_call and
observation to it, and writes alpaca records with a `history` of earlier questions and answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ft.data.layout import Fields
from ft.data.segments import RecordError

SHAREGPT_FIELD = "conversations"
SHAREGPT_NAMES = {"role": "from", "content": "value"}

_CALL, _RESULT = "function_call", "observation"


def messages_of_shape(record: Fields) -> Any:
    """The turns of a record of another tool's shape; None if it has none that is known."""
    if record.get(SHAREGPT_FIELD) is not None:
        return record[SHAREGPT_FIELD]
    if record.get("instruction") is None or record.get("output") is None:
        return None
    asked = "\n".join(part for part in (record["instruction"], record.get("input")) if part)
    pairs = [*(record.get("history") or ()), (asked, record["output"])]
    return [message for pair in pairs for message in _question_and_answer(pair)]


def _question_and_answer(pair: Any) -> list[dict[str, Any]]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise RecordError("field 'history' is no list of questions and answers", repr(pair)[:200])
    question, answer = pair
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def sharegpt_turn(fields: Mapping[str, Any], *, has_calls: bool) -> dict[str, Any]:
    """A turn in the words of templates: calls of functions, and what they gave.

    Args:
        fields: Its role and content.
        has_calls: The template can write calls; else a call is what the assistant says.
    """
    role, content = fields.get("role"), fields.get("content")
    if role == _RESULT:
        return {**fields, "role": "tool"}
    if role != _CALL:
        return dict(fields)
    if not has_calls:
        return {**fields, "role": "assistant"}
    try:
        calls: Any = json.loads(content) if isinstance(content, str) else content
        functions = [
            {"name": call["name"], "arguments": call["arguments"]}
            for call in (calls if isinstance(calls, list) else [calls])  # one, or several
        ]
    except (KeyError, TypeError, ValueError):
        raise RecordError("function_call is no JSON of name, arguments", repr(content)) from None
    wrapped = [{"type": "function", "function": function} for function in functions]
    return {**fields, "role": "assistant", "content": "", "tool_calls": wrapped}


def wrapped_tools(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools as templates know them: each function in an object that says it is one."""
    return [
        dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
        for tool in tools
    ]

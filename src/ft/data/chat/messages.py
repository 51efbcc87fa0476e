"""A record's turns and tools, in the words that chat templates know.

Records call things many names: keys of the data set say which. Shapes of other tools that no key
describes are recognized by their fields (`ft.data.chat.shapes`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft.data.chat.shapes import SHAREGPT_NAMES, messages_of_shape, sharegpt_turn, wrapped_tools
from ft.data.layout import Fields
from ft.data.segments import RecordError
from ft.spec.runspec import DatasetSpec

DEFAULT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}

_THOUGHT_TAGS = (
    ("<think>", "</think>"),
    ("<reasoning>", "</reasoning>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
_SOLUTION_TAGS = ("<|begin_of_solution|>", "<|end_of_solution|>")

Part = tuple[int, int, bool]
"""Characters of a text, first and last, and whether they are trained."""


@dataclass(frozen=True, slots=True)
class Message:
    """A turn.

    Attributes:
        fields: What the template gets: role, content, ...
        is_trained: What the record itself says of the turn; None = nothing.
        content_parts: What it says of parts of the content; None = nothing.
        thinking_parts: What it says of parts of the reasoning; None = nothing.
    """

    fields: dict[str, Any]
    is_trained: bool | None = None
    content_parts: tuple[Part, ...] | None = None
    thinking_parts: tuple[Part, ...] | None = None

    @property
    def role(self) -> str:
        """Who speaks."""
        return str(self.fields["role"])

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that it says of parts."""
        return (self.content_parts or ()) + (self.thinking_parts or ())

    @property
    def decides(self) -> bool:
        """The record itself says what of this turn is trained."""
        flags = (self.is_trained, self.content_parts, self.thinking_parts)
        return any(flag is not None for flag in flags)


@dataclass(frozen=True)
class Reader:
    """Reads conversations out of records.

    Attributes:
        spec: Names of fields, properties and roles.
        template_properties: The properties of a turn that the template reads.
    """

    spec: DatasetSpec
    template_properties: frozenset[str]

    def read(self, record: Fields) -> tuple[list[Message], list[dict[str, Any]] | None]:
        """The turns and tools of a record.

        Raises:
            RecordError: It holds no conversation.
        """
        turns, is_of_shape = self._turns(record)
        messages = self.with_system(record, [self._message(turn, is_of_shape) for turn in turns])
        if not messages:
            raise RecordError("no turn is left", "the only one is a system text that is dropped")
        tools = self.tools(record)
        return messages, wrapped_tools(tools) if is_of_shape and tools else tools

    def with_system(self, record: Fields, messages: list[Message]) -> list[Message]:
        """The turns, with the record's system text in front unless they bring their own."""
        system = record.get(self.spec.field_system)
        if system is not None and (not messages or messages[0].role != "system"):
            messages = [Message({"role": "system", "content": system}), *messages]
        has_system = bool(messages) and messages[0].role == "system"
        return messages[1:] if has_system and self.spec.drop_system_message else messages

    def tools(self, record: Fields) -> list[dict[str, Any]] | None:
        """The tools of a record; their parameters may be written as JSON.

        Raises:
            RecordError: They are no list of objects.
        """
        tools = without_nulls(record.get(self.spec.field_tools))
        if tools is None or tools == "":
            return None
        if isinstance(tools, str):
            tools = _parsed(tools, f"field {self.spec.field_tools!r}")
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise RecordError(
                f"field {self.spec.field_tools!r} is no list of tools", repr(tools)[:200]
            )
        for tool in tools:
            function = tool.get("function")
            if isinstance(function, dict) and isinstance(function.get("parameters"), str):
                function["parameters"] = _parsed(function["parameters"], "a tool's parameters")
        return tools

    def role(self, name: str) -> str:
        """What a role is called in templates."""
        return self._roles().get(name, name)

    def _roles(self) -> Mapping[str, str]:
        if not self.spec.roles:
            return DEFAULT_ROLES
        return {theirs: ours for ours, names in self.spec.roles.items() for theirs in names}

    def _turns(self, record: Fields) -> tuple[Sequence[Any], bool]:
        """The turns as the record holds them; whether another tool's shape was recognized."""
        name = self.spec.field_messages
        turns = record.get(name)
        is_of_shape = False
        if turns is None:
            turns = messages_of_shape(record)
            is_of_shape = turns is not None
        if turns is None:
            has = ", ".join(map(str, record))
            raise RecordError(f"missing field {name!r}", f"the record has {has}")
        if isinstance(turns, str) and turns.lstrip()[:1] == "[":
            turns = _parsed(turns, f"field {name!r}")
        else:
            turns = without_nulls(turns)
        if not isinstance(turns, list | tuple) or not turns:
            raise RecordError(f"field {name!r} is no list of turns", repr(turns)[:200])
        return turns, is_of_shape

    def _message(self, turn: Any, is_of_shape: bool) -> Message:
        if not isinstance(turn, Mapping):
            raise RecordError("turn is no object", repr(turn)[:200])
        names = self._names()
        if names["role"] not in turn and not self.spec.message_property_mappings:
            is_of_shape = is_of_shape or SHAREGPT_NAMES["role"] in turn
            names = {**names, **SHAREGPT_NAMES}
        fields = {ours: turn[name] for ours, name in names.items() if turn.get(name) is not None}
        if is_of_shape:
            fields = sharegpt_turn(fields, has_calls="tool_calls" in self.template_properties)
        if not isinstance(fields.get("role"), str):
            raise RecordError("turn without a role", repr(dict(turn))[:200])
        fields["role"] = self.role(fields["role"])
        if self.spec.split_thinking and fields["role"] == "assistant":
            self._split_thinking(fields)
        mapped = set(names.values())
        for key in self.template_properties:
            if key not in mapped and turn.get(key) is not None:
                fields[key] = turn[key]
        _parse_arguments(fields)
        return self._with_training(fields, turn)

    def _names(self) -> dict[str, str]:
        if self.spec.message_property_mappings:
            return {"role": "role", "content": "content", **self.spec.message_property_mappings}
        thinking = {self.spec.template_thinking_key: self.spec.field_thinking}
        return {"role": "role", "content": "content", **thinking}

    def _split_thinking(self, fields: dict[str, Any]) -> None:
        """Moves the reasoning that stands in tags within an answer to its own property."""
        content = fields.get("content")
        if not isinstance(content, str):
            return
        for opening, closing in _THOUGHT_TAGS:
            if opening not in content or closing not in content:
                continue
            start, end = content.find(opening) + len(opening), content.find(closing)
            fields[self.spec.template_thinking_key] = content[start:end].strip()
            rest = content[end + len(closing) :].lstrip()
            first, last = (rest.find(tag) for tag in _SOLUTION_TAGS)
            if first >= 0 and last >= 0:
                rest = rest[first + len(_SOLUTION_TAGS[0]) : last].strip()
            fields["content"] = rest
            return

    def _with_training(self, fields: dict[str, Any], turn: Mapping[str, Any]) -> Message:
        flag = self.spec.message_field_training
        detail = self.spec.message_field_training_detail
        is_trained = turn.get(flag) if flag else None
        parts = _parts(turn.get(detail)) if detail else None
        if isinstance(fields.get("content"), list):
            fields["content"], found = _joined(fields["content"])
            parts = parts if found is None else found
        thinking_key, thinking_parts = self.spec.template_thinking_key, None
        if isinstance(fields.get(thinking_key), list):
            fields[thinking_key], thinking_parts = _joined(fields[thinking_key])
        return Message(
            fields, None if is_trained is None else bool(is_trained), parts, thinking_parts
        )


def without_nulls(value: Any) -> Any:
    """A copy without keys whose value is null: tables fill in with them what an object lacks."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RecordError(f"{what} is no JSON", f"{error}: {text[:100]!r}") from None


def _parse_arguments(fields: Mapping[str, Any]) -> None:
    """Arguments of tool calls are objects in templates, and their JSON in most records."""
    calls = fields.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = _parsed(function["arguments"], "a tool call's arguments")


def _joined(parts: Sequence[Any]) -> tuple[str, tuple[Part, ...] | None]:
    """The text of a content that is given in parts, and what is said about training them."""
    texts: list[str] = []
    details: list[Part] = []
    says_anything = False
    offset = 0
    for part in parts:
        if not isinstance(part, Mapping):
            raise RecordError("turn's content is no text", repr(parts)[:200])
        text = part.get("text") or part.get("content") or part.get("value") or ""
        is_other = not text and part.get("type", "text") != "text"  # an image, for one
        if not isinstance(text, str) or is_other:
            raise RecordError("turn's content is no text", repr(part)[:200])
        flag, weight = part.get("train"), part.get("weight")
        says_anything = says_anything or flag is not None or weight is not None
        is_trained = (weight is None or weight != 0) if flag is None else bool(flag)
        texts.append(text)
        if text:
            details.append((offset, offset + len(text) - 1, is_trained))
            offset += len(text)
    return "".join(texts), tuple(details) if says_anything else None


def _parts(details: Any) -> tuple[Part, ...] | None:
    if details is None:
        return None
    try:
        return tuple(
            (int(each["begin_offset"]), int(each["end_offset"]), bool(each["train"]))
            for each in details
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            "training detail is no list of begin_offset, end_offset, train", repr(error)
        ) from None

"""Where the turns of a conversation stand in what a template made of it.

A turn is found by rendering the conversation with that turn's content replaced: what differs is the
turn. Two replacements that share no first and no last character are tried, since the text around
may begin or end like one of them; the wider span holds. This is how axolotl finds turns, so what is
trained of reasoning, tool calls and trimmed white space is what it trains.

Templates of the usual kind write each content as it is, or trimmed. There, one rendering with all
contents replaced shows what stands between them, and all turns are found at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft.data.chat.templates import Template
from ft.data.segments import CharSpan, RecordError

_PROBES = ("[[dummy_message]]", "zzdummymessagezz")
_PROBE_STARTS = ("[", "z")
_BLOCK = 1024
_FIRST_MARK = 0xE000
"""Characters that belong to nobody: they mark contents in a rendering."""

_PLAIN = {"role", "content"}

Focus = Literal["turn", "content", "thinking"]
"""What is replaced: all of a turn but its role, its content alone, its reasoning alone."""

Fields = dict[str, Any]


@dataclass(frozen=True)
class Locator:
    """Finds the turns of one conversation.

    Attributes:
        template: Renders it.
        messages: Its turns.
        tools: Its tools.
        text: What the template makes of them.
        thinking_key: The property that holds a turn's reasoning.
    """

    template: Template
    messages: Sequence[Fields]
    tools: Sequence[Fields] | None
    text: str
    thinking_key: str

    def spans(self, indices: Sequence[int]) -> dict[int, CharSpan | None]:
        """The spans of whole turns; None where the template leaves one out.

        Args:
            indices: The turns that are asked for, in order.
        """
        plain = [index for index in indices if self.messages[index].keys() <= _PLAIN]
        found: dict[int, CharSpan | None] = dict(self._spans_at_once(plain))
        for index in indices:
            if index not in found:
                found[index] = self.span(index, "turn")
        return found

    def span(self, index: int, focus: Focus) -> CharSpan | None:
        """The span of one turn, or of a part of it."""
        spans = []
        for probe in _PROBES:
            changed = [*self.messages]
            changed[index] = self._replaced(self.messages[index], focus, probe)
            try:
                other = self.template.render(changed, self.tools)
            except RecordError:
                return None
            spans.append(_difference(self.text, other))
        start, end = min(start for start, _ in spans), max(end for _, end in spans)
        return (start, end) if start < end else None

    def _replaced(self, message: Fields, focus: Focus, probe: str) -> Fields:
        thinking = {key: message[key] for key in (self.thinking_key,) if key in message}
        if focus == "thinking":
            replaced = dict.fromkeys(thinking, probe)
            return {"role": message["role"], "content": message.get("content", ""), **replaced}
        kept = thinking if focus == "content" else {}
        return {"role": message["role"], "content": probe, **kept}

    def _spans_at_once(self, indices: Sequence[int]) -> dict[int, CharSpan]:
        """The spans of turns that are written as they are; nothing if that is not certain."""
        marks = {index: chr(_FIRST_MARK + at) for at, index in enumerate(indices)}
        if not marks or any(mark in self.text for mark in marks.values()):
            return {}
        changed = [*self.messages]
        for index, mark in marks.items():
            changed[index] = {"role": self.messages[index]["role"], "content": mark}
        try:
            rest = self.template.render(changed, self.tools)
        except RecordError:
            return {}
        spans: dict[int, CharSpan] = {}
        position = 0
        for index, mark in marks.items():
            before, is_there, rest = rest.partition(mark)
            start = position + len(before)
            if not is_there or self.text[position:start] != before:
                return {}
            content = self._written(index, start)
            if content is None:
                return {}
            position = start + len(content)
            if content and not content.startswith(_PROBE_STARTS):
                spans[index] = (start, position)
        return spans if self.text[position:] == rest else {}

    def _written(self, index: int, start: int) -> str | None:
        """The content as it stands at `start`: as it is, or trimmed."""
        content = self.messages[index].get("content")
        if not isinstance(content, str):
            return None
        for written in (content, content.strip()):
            if self.text.startswith(written, start):
                return written
        return None


def _difference(text: str, other: str) -> CharSpan:
    """Where `text` differs from `other`."""
    limit = min(len(text), len(other))
    start = _num_shared(text, other, limit)
    return start, len(text) - _num_shared(text[::-1], other[::-1], limit - start)


def _num_shared(left: str, right: str, limit: int) -> int:
    """How many characters two texts begin with alike, at most `limit`; blocks are compared in C."""
    at = 0
    while at + _BLOCK <= limit and left[at : at + _BLOCK] == right[at : at + _BLOCK]:
        at += _BLOCK
    while at < limit and left[at] == right[at]:
        at += 1
    return at

"""What a data file's first records say about its layout, its length and its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.spec.conversion.peek import first_record

ARROW = "->"
_BYTES_LOOKED_AT = 2_000_000
_CHARACTERS_A_TOKEN = 3  # fewer than English has, so that most records of any language fit
_SHORTEST, _LONGEST = 256, 4096


@dataclass(frozen=True)
class Data:
    """A data set as it looks from outside."""

    path: str
    layout: dict[str, Any] | None
    """Keys of the entry beside `path:`; None where the fields tell nothing."""
    finding: str
    """What was seen, in words."""
    num_records: int | None = None
    """About how many; None for a hub data set."""
    sequence_len: int = 2048
    """Tokens that hold nearly every record, by the letters in it."""
    fields: tuple[str, ...] = ()
    """Of the first record; empty where it can't be seen."""


_LAYOUTS_OF_FIELDS: tuple[tuple[set[str], dict[str, Any]], ...] = (
    ({"input_ids", "labels"}, {}),
    ({"question", "context", "answer"}, {"type": "context_qa.load_v2"}),
    ({"instruction", "output"}, {"type": "alpaca"}),
    ({"text"}, {"type": "completion"}),
)
_QUESTIONS = ("question", "prompt", "instruction", "input", "query", "user")
_ANSWERS = ("answer", "completion", "response", "output", "assistant", "label", "sql", "target")


def look_at(path: str) -> Data:
    """Looks at a data file.

    Args:
        path: A file, or a hub data set's name, of which nothing can be seen.
    """
    file = Path(path).expanduser()
    if not file.exists():
        return Data(path, None, f"the fields of {path} can't be seen from here")
    record = first_record(file)
    if not record:
        return Data(path, None, f"the fields of {path} can't be seen: it is no JSON, JSONL or CSV")
    layout = layout_of(record)
    fields = ", ".join(map(str, record))
    told = "" if layout is None else f" -> {_in_words(layout)}"
    num_records, length = _size(file)
    return Data(path, layout, f"fields {fields}{told}", num_records, length, tuple(record))


def layout_of_fields(text: str, fields: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """A layout for `question -> answer`, and what is wrong with it.

    Args:
        text: Two fields with an arrow between them.
        fields: Those that the records have; empty if that is not known.
    """
    question, _, answer = (part.strip() for part in text.partition(ARROW))
    missing = [name for name in (question, answer) if fields and name not in fields]
    if missing or not (question and answer):
        return None, f"no field {missing[0]!r}" if missing else f"got {text!r}, expected two fields"
    return _mapping(question, answer), ""


def layout_of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The keys beside `path:` that fit a record; None where none of the usual ones does."""
    if {"chosen", "rejected"} <= record.keys():
        return None
    for read in (_of_messages, _of_known_fields, _of_question_and_answer):
        if (layout := read(record)) is not None:
            return layout
    return None


def _of_messages(record: Mapping[str, Any]) -> dict[str, Any] | None:
    for field in ("messages", "conversations"):
        turns = record.get(field)
        if not (isinstance(turns, list) and turns and isinstance(turns[0], dict)):
            continue
        layout: dict[str, Any] = {"type": "chat_template"}
        if field != "messages":
            layout["field_messages"] = field
        if {"from", "value"} <= turns[0].keys():
            layout["message_property_mappings"] = {"role": "from", "content": "value"}
        return layout
    return None


def _of_known_fields(record: Mapping[str, Any]) -> dict[str, Any] | None:
    for fields, layout in _LAYOUTS_OF_FIELDS:
        if fields <= record.keys():
            return layout
    return None


def _of_question_and_answer(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A mapping of our own for two fields with telling names."""
    question = next((name for name in _QUESTIONS if name in record), None)
    answer = next((name for name in _ANSWERS if name in record and name != question), None)
    if question is None or answer is None:
        return None
    return _mapping(question, answer)


def _mapping(question: str, answer: str) -> dict[str, Any]:
    prompt = "### Question:\n{instruction}\n\n### Answer:\n"
    layout = {"field_instruction": question, "field_output": answer}
    return {"type": layout | {"format": prompt, "no_input_format": prompt}}


def _in_words(layout: Mapping[str, Any]) -> str:
    kind = layout.get("type")
    if isinstance(kind, dict):
        return f"a layout of your own: {kind['field_instruction']} -> {kind['field_output']}"
    return f"type: {kind}" if kind else "tokenized already"


def _size(file: Path) -> tuple[int | None, int]:
    """About how many records there are, and a sequence length that holds nearly all of them."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        lengths = _line_lengths(opened.read(_BYTES_LOOKED_AT))
    if file.suffix.lower() == ".json" or not lengths:
        return None, 2048
    mean = sum(lengths) / len(lengths)
    nearly_longest = sorted(lengths)[int(0.99 * (len(lengths) - 1))]
    length = _SHORTEST
    while length < min(nearly_longest / _CHARACTERS_A_TOKEN, _LONGEST):
        length *= 2
    return max(1, round(size / mean)), length


def _line_lengths(data: bytes) -> list[int]:
    """Bytes of each whole line."""
    lines = data.splitlines(keepends=True)
    whole = lines if len(lines) < 2 or len(data) < _BYTES_LOOKED_AT else lines[:-1]
    return [len(line) for line in whole if line.strip()]

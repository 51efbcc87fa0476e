"""JSON files of this machine, read so that every record knows its line.

A broken line is a `BrokenRecord` and costs that line only; an array that is broken costs the file.
A line is in memory as its text or as its value, and twice only while it becomes the other.
One that is longer than `max_line_bytes` is measured in pieces, and never decoded: its text may
take four bytes a character, its tokens hundreds of times its size.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from ft.data.records import (
    BrokenRecord,
    Origin,
    RawRecord,
    Record,
    RecordSource,
    Split,
    choose_split,
    single_file_note,
)
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

OVERLONG = "over max_line_bytes"
"""Why a long line is no record."""

_PIECE = 1 << 20
"""Bytes that are held at once of a line that is only measured."""

_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_WHITE_SPACE = " \t\r\n"
_SURROGATE = re.compile("[\ud800-\udfff]")


def read(spec: DatasetSpec, files: dict[str, tuple[Path, ...]]) -> RecordSource:
    """The records of the split that `spec` asks for.

    Args:
        spec: The entry of `datasets:`.
        files: Split -> its files.
    """
    split = choose_split(spec, files)
    chosen = files[split.name]
    is_single = len(files) == 1 and not spec.data_files
    notes = single_file_note(spec) if is_single else ()
    if (idle := note_on_line_limit(spec)) and any(map(_is_array, chosen)):
        notes = (*notes, *idle)
    entries = partial(_read_files, chosen, spec.max_line_bytes)
    return RecordSource(partial(_read_chunks, spec.path, split, entries), notes)


def note_on_line_limit(spec: DatasetSpec) -> tuple[str, ...]:
    """What to say of `max_line_bytes` where records are not lines of a JSON file."""
    if spec.max_line_bytes == DatasetSpec.model_fields["max_line_bytes"].default:
        return ()
    return (
        "max_line_bytes has no effect here: it is for plain .jsonl (or .json) of a record a line",
    )


class _Entry(NamedTuple):
    """A place where a record should be."""

    file: str
    line: int
    row: int
    content: str | dict[str, Any] | _Fault
    """A line's text, not parsed yet; or a record's fields."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    dataset: str
    entries: deque[_Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def records(self) -> Iterator[RawRecord]:
        while self.entries:
            file, line, row, content = self.entries.popleft()
            entry = _parse_line(content) if isinstance(content, str) else content
            del content
            yield _to_record(entry, Origin(self.dataset, file, line, row))


def _read_chunks(
    dataset: str, split: Split, read_entries: Callable[[], Iterator[_Entry]], size: int
) -> Iterator[_Chunk]:
    entries = iter(split.select(read_entries))
    while chosen := deque(islice(entries, size)):
        yield _Chunk(dataset, chosen)


def _read_files(files: Iterable[Path], max_line_bytes: int) -> Iterator[_Entry]:
    row = 0
    for file in files:
        name = str(file)
        entries = _array_entries(file) if _is_array(file) else _line_entries(file, max_line_bytes)
        for line, content in entries:
            yield _Entry(name, line, row, content)
            row += 1


def _is_array(file: Path) -> bool:
    return file.suffix.lower() == ".json" and _starts_with(file, b"[")


def _to_record(entry: dict[str, Any] | _Fault, origin: Origin) -> RawRecord:
    if isinstance(entry, _Fault):
        return BrokenRecord(entry.reason, entry.detail, origin)
    return Record(entry, origin)


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with a line."""

    reason: str
    detail: str


def _line_entries(file: Path, max_bytes: int) -> Iterator[tuple[int, str | _Fault]]:
    """Number and text of every line that is not blank."""
    with _open(file) as stream:
        number = 0  # counted by hand: `enumerate` keeps a line until the next one is there
        while (content := _next_line(stream, max_bytes)) is not None:
            number += 1
            if not content:
                continue
            if number == 1 and file.suffix.lower() == ".json":
                _refuse_single_object(file, content)
            yield number, content
            del content  # it is the caller's


def _next_line(stream: IO[bytes], max_bytes: int) -> str | _Fault | None:
    """The text of a line without its white space; None at the end. Its bytes are not kept."""
    raw = stream.readline(max_bytes + 1)
    if not raw:
        return None
    if len(raw) > max_bytes and not raw.endswith(b"\n"):
        begin, num_bytes = raw[:200], len(raw)
        del raw
        return _overlong(begin, num_bytes + _skip_line(stream), max_bytes)
    line = raw.strip()
    del raw
    if b"\0" in line:
        return _Fault("NUL byte", f"at byte {line.index(0) + 1} of the line")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return _Fault("not UTF-8", f"byte 0x{line[error.start]:02x} at {error.start + 1}")


def _skip_line(stream: IO[bytes]) -> int:
    """How many bytes there are up to the end of the line, which is behind us then."""
    num_bytes = 0
    while piece := stream.readline(_PIECE):
        if piece.endswith(b"\n"):
            return num_bytes + len(piece) - 1
        num_bytes += len(piece)
    return num_bytes


def _overlong(begin: bytes, num_bytes: int, max_bytes: int) -> _Fault:
    text = begin.decode("utf-8", errors="replace")
    return _Fault(
        OVERLONG,
        f"{num_bytes:,} bytes, {max_bytes:,} allowed: split the record, or raise max_line_bytes "
        f"beside the data set's path: {text!r}",
    )


def _parse_line(text: str) -> dict[str, Any] | _Fault:
    try:
        value, end = _parse(text, 0)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        return _Fault("not JSON", f"{_json_fault(error)}: {text[:200]!r}")
    return value


def _parse(text: str, start: int) -> tuple[dict[str, Any] | _Fault, int]:
    """The record that stands at `start`, and where it ends.

    Raises:
        ValueError: What stands there is not JSON.
        RecursionError: It is nested too deeply.
    """
    value, end = _DECODER.raw_decode(text, start)
    if "\\u" in text and not _is_unicode(value):
        return _Fault("lone surrogate", repr(text[start : min(end, start + 200)])), end
    # Counting is quick; a key that stands in a text as well costs a second look.
    num_colons = text.count('":', start, end) + text.count('" :', start, end)
    if num_colons > _num_keys(value):
        del value  # memory for one of them is enough
        try:
            value, end = _DECODER_OF_UNIQUE.raw_decode(text, start)
        except _RepeatedKeyError as error:
            source = text[start : min(end, start + 200)]
            return _Fault(f"key {error.args[0]!r} stands twice", repr(source)), end
    if not isinstance(value, dict):
        return _Fault("not an object", f"got {text[start : min(end, start + 200)]}"), end
    return value, end


class _RepeatedKeyError(Exception):
    """A key stands twice in one object; the parser would keep the last in silence."""


def _of_unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(key)
        found[key] = value
    return found


_DECODER = json.JSONDecoder()
_DECODER_OF_UNIQUE = json.JSONDecoder(object_pairs_hook=_of_unique)


def _num_keys(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_num_keys, value.values()))
    return sum(map(_num_keys, value)) if isinstance(value, list) else 0


def _is_unicode(value: Any) -> bool:
    r"""Whether all texts can be encoded: JSON may hold half a surrogate pair, ``"\ud83d"``."""
    if isinstance(value, str):
        return value.isascii() or _SURROGATE.search(value) is None
    if isinstance(value, dict):
        return all(map(_is_unicode, value)) and all(map(_is_unicode, value.values()))
    return all(map(_is_unicode, value)) if isinstance(value, list) else True


def _array_entries(file: Path) -> Iterator[tuple[int, dict[str, Any] | _Fault]]:
    """Line number and fields of every element of the array that the file holds."""
    text = _read_text(file)
    position, line, counted = _skip(text, text.index("[") + 1), 1, 0
    while not text.startswith("]", position):
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, end = _parse(text, position)
        except (ValueError, RecursionError) as error:
            place = getattr(error, "pos", position)
            raise _broken_array(file, text, place, _message(error)) from None
        yield line, value
        position = _skip(text, end)
        if text.startswith(",", position):
            position = _skip(text, position + 1)
        elif not text.startswith("]", position):
            raise _broken_array(file, text, position, "expected ',' or ']'")
    if rest := text[position + 1 :].strip():
        raise _broken_array(file, text, text.rindex(rest), "text behind the array")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _WHITE_SPACE:
        position += 1
    return position


def _broken_array(file: Path, text: str, position: int, message: str) -> UserError:
    line = text.count("\n", 0, position) + 1
    start = text.rfind("\n", 0, position) + 1
    source = text[start : start + 200].split("\n", 1)[0]
    return UserError(
        Problem(
            f"not JSON: {message}",
            where=f"{file}:{line}:{position - start + 1}",
            source=source,
            fix="mend the array, or write one record a line (.jsonl): then a fault costs one line",
        )
    )


def _refuse_single_object(file: Path, first_line: str | _Fault) -> None:
    if isinstance(first_line, _Fault) and first_line.reason == OVERLONG:
        return  # the file is as long: it is not read to say so in other words
    if isinstance(first_line, str) and not isinstance(_parse_line(first_line), _Fault):
        return
    try:
        value = json.loads(_read_text(file))
    except (ValueError, RecursionError, UserError):
        return
    keys = ", ".join(list(value)[:5]) if isinstance(value, dict) else type(value).__name__
    raise UserError(
        Problem(
            f"holds one JSON object ({keys}), not a list of records",
            where=str(file),
            fix="write an array of records, or one record a line",
        )
    )


def _read_text(file: Path) -> str:
    raw = file.read_bytes().removeprefix(_BOM)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            Problem(f"not UTF-8: byte 0x{raw[error.start]:02x}", where=f"{file}:{line}")
        ) from None


def _open(file: Path) -> IO[bytes]:
    """The file's lines, behind a byte order mark."""
    if _starts_with(file, *_UTF16_BOMS):
        raise UserError(
            Problem("is UTF-16", where=str(file), fix="convert it: iconv -f UTF-16 -t UTF-8")
        )
    stream = file.open("rb")
    if stream.peek().startswith(_BOM):
        stream.seek(len(_BOM))
    return stream


def _starts_with(file: Path, *marks: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(4096).removeprefix(_BOM)
    except OSError as error:
        raise UserError(Problem(f"can't be read: {error.strerror}", where=str(file))) from None
    return head.lstrip().startswith(marks)


def _json_fault(error: ValueError | RecursionError) -> str:
    place = f" at column {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
    return _message(error) + place


def _message(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else "a number of too many digits"

"""Records, each of which knows where it came from, and the splits that they are chosen by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

FORMATS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
"""File ending -> format, in the words of `ds_type` and of the `datasets` library."""

READ_AHEAD = 1000
"""Records that are read before the first of them is given out."""

COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst"}
DEFAULT_SPLIT = "train"

T = TypeVar("T")

_SPLIT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?", flags=re.ASCII
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record came from.

    Attributes:
        dataset: The data set's path as the YAML gives it.
        file: The file, or `dataset/split` where there is no single file.
        line: Line in the file, from 1; None where the format has no lines.
        row: Place in the data set, from 0.
    """

    dataset: str
    file: str
    line: int | None
    row: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}" if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its fields, and where it came from."""

    fields: dict[str, Any]
    origin: Origin


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A place where a record should be, and what is wrong there."""

    reason: str
    detail: str
    origin: Origin


RawRecord = Record | BrokenRecord


class Chunk(Protocol):
    """Consecutive records that are not decoded yet, so that another process can do it."""

    def __len__(self) -> int: ...

    def records(self) -> Iterator[RawRecord]:
        """The records, decoded one by one and once: what was given out is not held any longer."""


@dataclass(frozen=True)
class RecordSource:
    """The records of one data set, readable any number of times.

    Attributes:
        chunks: Starts reading from the first record; gives chunks of at most so many records.
        notes: What the user should know about how the data set was found.
        num_records: How many there are, where that is known without reading them.
    """

    chunks: Callable[[int], Iterator[Chunk]]
    notes: tuple[str, ...] = ()
    num_records: int | None = None

    def __iter__(self) -> Iterator[RawRecord]:
        for chunk in self.chunks(READ_AHEAD):
            yield from chunk.records()

    def head(self) -> RecordSource:
        """The first `READ_AHEAD` of the records."""
        return replace(self, chunks=self._first_chunks, num_records=None)

    def _first_chunks(self, size: int) -> Iterator[Chunk]:
        size = min(size, READ_AHEAD)
        return islice(self.chunks(size), READ_AHEAD // size)


@dataclass(frozen=True)
class Split:
    """A split's name and the slice of it that is asked for: `train[10%:20%]`."""

    name: str
    start: str | None = None
    stop: str | None = None

    @classmethod
    def parse(cls, text: str | None) -> Split:
        """The parts of a split's text.

        Raises:
            UserError: It is neither `name` nor `name[start:stop]`.
        """
        match = _SPLIT.fullmatch(text or DEFAULT_SPLIT)
        if match is None:
            raise UserError(
                Problem(
                    f"can't read the split {text!r}",
                    fix="write a name, or a name with a slice: train[:100], train[10%:20%]",
                )
            )
        return cls(match["name"], match["start"], match["stop"])

    @property
    def is_whole(self) -> bool:
        """Whether there is no slice."""
        return self.start is None and self.stop is None

    def select(self, read: Callable[[], Iterable[T]]) -> Iterable[T]:
        """What the slice leaves; one that needs the number of all reads them once to count."""
        bounds = (self.start, self.stop)
        if self.is_whole:
            return read()
        if all(bound is None or bound.isdigit() for bound in bounds):
            return islice(read(), *(None if bound is None else int(bound) for bound in bounds))
        chosen = self.positions(sum(1 for _ in read()))
        return islice(read(), chosen.start, chosen.stop)

    def positions(self, length: int) -> range:
        """The places that the slice takes of so many."""
        return range(length)[_to_index(self.start, length) : _to_index(self.stop, length)]


def file_format(path: Path) -> str | None:
    """The format that a file's ending tells; None if it tells none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def choose_split(spec: DatasetSpec, splits: Iterable[str]) -> Split:
    """The split that the entry asks for.

    Raises:
        UserError: The data set has no such split; the message lists those that it has.
    """
    split, names = Split.parse(spec.split), list(splits)
    if split.name in names:
        return split
    raise UserError(no_such_split(spec, split.name, names))


def no_such_split(spec: DatasetSpec, name: str, splits: Iterable[str]) -> Problem:
    """What to say of a split that a data set does not have."""
    return Problem(
        f"{spec.path} has no split {name!r}", fix=f"set split: to one of {', '.join(splits)}"
    )


def single_file_note(spec: DatasetSpec) -> tuple[str, ...]:
    """What to say when a split is asked for of a file, which has none."""
    name = Split.parse(spec.split).name
    if name == DEFAULT_SPLIT:
        return ()
    return (f"{spec.path} is a single file, so `split: {name}` means all of it",)


def _to_index(bound: str | None, length: int) -> int | None:
    """A slice's bound as an index; shares are rounded to the closest, as `datasets` does."""
    if bound is None:
        return None
    return round(int(bound[:-1]) * length / 100) if bound.endswith("%") else int(bound)

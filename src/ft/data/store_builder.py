"""The way into a `TokenStore`: rows are appended, to files of a folder or to memory.

Each column is one file of raw little-endian numbers, `input_ids.i4` and so on, written from front
to back, so that memory does not grow with the number of records.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ft.data.teacher import TeacherTokens, joined, no_teacher
from ft.data.tokenized import IntArray, LongArray, TokenStore

_TYPES = {
    "input_ids": "<i4",
    "labels": "<i4",
    "offsets": "<i8",
    "num_trained": "<i4",
    "places": "<i8",
    "weights": "<f4",
    "teacher_counts": "|u1",
    "teacher_ids": "<i4",
    "teacher_logprobs": "<f4",
}
_TOLD_OF = ("num_trained", "places")
"""The columns that decide nothing of what is trained."""
_ALWAYS_HASHED = ("input_ids", "labels", "offsets")
_OF_TEACHER = ("teacher_counts", "teacher_ids", "teacher_logprobs")


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows on their way into a store. n rows, t tokens.

    Attributes:
        input_ids: int32 [t].
        labels: int32 [t].
        lengths: int64 [n]: tokens of each row, 0 for one that can't be used.
        num_trained: int32 [n].
        places: int64 [n, 3]: as in a store, with these rows' own `sources`.
        sources: (data set, file) pairs.
        weights: float32 [n]; None = 1 each.
        teacher: What a teacher said of the t tokens; None = nothing.
    """

    input_ids: IntArray
    labels: IntArray
    lengths: LongArray
    num_trained: IntArray
    places: LongArray
    sources: tuple[tuple[str, str], ...]
    weights: npt.NDArray[np.float32] | None = None
    teacher: TeacherTokens | None = None


class TokenStoreBuilder:
    """Collects rows, in order."""

    def __init__(self, folder: Path | None = None) -> None:
        """Opens the columns.

        Args:
            folder: Where their files go; None = they are held in memory.
        """
        self._folder = folder
        self._columns = {name: _Column(name, folder) for name in _TYPES}
        self._sources: dict[tuple[str, str], int] = {}
        self._num_tokens = 0
        self._has_teacher = False
        self._has_weights = False
        self._columns["offsets"].append(np.zeros(1))

    def append(self, rows: Rows) -> None:
        """Adds rows behind the others."""
        numbers = [self._sources.setdefault(each, len(self._sources)) for each in rows.sources]
        places = rows.places.copy()
        places[:, 0] = np.asarray(numbers, np.int64)[places[:, 0]]
        self._columns["input_ids"].append(rows.input_ids)
        self._columns["labels"].append(rows.labels)
        self._columns["offsets"].append(self._num_tokens + np.cumsum(rows.lengths))
        self._columns["num_trained"].append(rows.num_trained)
        self._columns["places"].append(places)
        ones = np.ones(len(rows.lengths), np.float32)
        weights = ones if rows.weights is None else rows.weights
        self._has_weights |= bool((weights != 1).any())
        self._columns["weights"].append(weights)
        self._append_teacher(rows)
        self._num_tokens += len(rows.input_ids)

    def _append_teacher(self, rows: Rows) -> None:
        """Nothing is written before the first rows that have one; then the rows before count 0."""
        if rows.teacher is None and not self._has_teacher:
            return
        teacher = rows.teacher or no_teacher(len(rows.input_ids))
        if not self._has_teacher:
            self._has_teacher = True
            teacher = joined([no_teacher(self._num_tokens), teacher])
        self._columns["teacher_counts"].append(teacher.counts)
        self._columns["teacher_ids"].append(teacher.ids)
        self._columns["teacher_logprobs"].append(teacher.logprobs)

    def build(self) -> TokenStore:
        """The store of everything that was appended."""
        sums = "".join(self._columns[name].sha256.hexdigest() for name in self._hashed())
        digest = hashlib.sha256(sums.encode()).hexdigest()
        sources = tuple(self._sources)
        if self._folder is None:
            arrays = {name: column.in_memory() for name, column in self._columns.items()}
            return _store(arrays, sources, digest)
        self.close()
        return open_store(self._folder, sources, digest)

    def _hashed(self) -> list[str]:
        """The columns that decide what is trained.

        Those that say nothing are left out, so that data of former versions, which had no such
        columns, is known again as what a run began with.
        """
        weights = ("weights",) if self._has_weights else ()
        return [*_ALWAYS_HASHED, *weights, *(_OF_TEACHER if self._has_teacher else ())]

    def close(self) -> None:
        """Closes the files, all of them even where one can't be written to its end."""
        with ExitStack() as stack:
            for column in self._columns.values():
                stack.callback(column.sink.close)


def open_store(folder: Path, sources: Sequence[tuple[str, str]], digest: str) -> TokenStore:
    """The store whose columns lie in a folder, mapped and not read.

    Raises:
        OSError: A column is not there.
        ValueError: A column holds no whole number of entries.
    """
    arrays = {name: _map(_file(folder, name), kind) for name, kind in _TYPES.items()}
    return _store(arrays, tuple(sources), digest)


class _Column:
    def __init__(self, name: str, folder: Path | None) -> None:
        self._type = np.dtype(_TYPES[name])
        self.sha256 = hashlib.sha256()
        self._is_hashed = name not in _TOLD_OF
        self.sink: IO[bytes] = io.BytesIO() if folder is None else _file(folder, name).open("wb")

    def append(self, values: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, self._type).tobytes()
        self.sink.write(data)
        if self._is_hashed:
            self.sha256.update(data)

    def in_memory(self) -> npt.NDArray[Any]:
        assert isinstance(self.sink, io.BytesIO)
        return np.frombuffer(self.sink.getbuffer(), self._type)


def _store(
    arrays: dict[str, npt.NDArray[Any]], sources: tuple[tuple[str, str], ...], digest: str
) -> TokenStore:
    arrays["places"] = arrays["places"].reshape(-1, 3)
    return TokenStore(**arrays, sources=sources, digest=digest)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.{_TYPES[name][1:]}"


def _map(path: Path, kind: str) -> npt.NDArray[Any]:
    if not path.stat().st_size:
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))  # a plain array: its slices are faster

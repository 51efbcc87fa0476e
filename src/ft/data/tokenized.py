"""Tokenized records, held flat: a few numbers a row beside the tokens themselves.

input_ids   a a a b b b b c c        TokenStore: arrays only, so that it can be mapped from a file
labels      - a a - - b b - c
offsets     0     3       7   9
TokenizedSet = a store and the order in which its rows are read
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import overload

import numpy as np
import numpy.typing as npt

from ft.data.records import Origin
from ft.data.segments import IGNORE_INDEX, Tokens

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

_NO_LINE = -1


@dataclass(frozen=True, slots=True)
class Example:
    """One row: int32 ids and labels of equal length, and where they came from."""

    input_ids: IntArray
    labels: IntArray
    origin: Origin


@dataclass(frozen=True)
class TokenStore:
    """Rows end to end. N rows, T tokens.

    Attributes:
        input_ids: int32 [T].
        labels: int32 [T], `IGNORE_INDEX` where a token is not trained.
        offsets: int64 [N + 1]; a row of no tokens stands for one that can't be used.
        places: int64 [N, 3]: index into `sources`, line (-1 = none), row of the record.
        sources: (data set, file) pairs.
    """

    input_ids: IntArray
    labels: IntArray
    offsets: LongArray
    places: LongArray
    sources: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> LongArray:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @cached_property
    def num_trained(self) -> LongArray:
        """Trained tokens of each row; its first is never predicted, so it doesn't count."""
        is_trained = self.labels != IGNORE_INDEX
        is_trained[self.offsets[:-1][self.lengths > 0]] = False
        counts = np.concatenate([[0], np.cumsum(is_trained, dtype=np.int64)])
        return np.diff(counts[self.offsets])

    def origin(self, index: int) -> Origin:
        """Where a row came from."""
        source, line, row = (int(value) for value in self.places[index])
        dataset, file = self.sources[source]
        return Origin(dataset, file, None if line == _NO_LINE else line, row)


class TokenStoreBuilder:
    """Collects rows, batch by batch."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, str], int] = {}
        self._input_ids: list[IntArray] = []
        self._labels: list[IntArray] = []
        self._lengths: list[int] = []
        self._places: list[tuple[int, int, int]] = []

    def add(self, rows: Sequence[tuple[Tokens | None, Origin]]) -> None:
        """Appends a batch of rows; None keeps the place of one that can't be used."""
        used = [tokens for tokens, _ in rows if tokens is not None]
        self._input_ids.append(_flat([tokens.input_ids for tokens in used]))
        self._labels.append(_flat([tokens.labels for tokens in used]))
        for tokens, origin in rows:
            source = self._sources.setdefault((origin.dataset, origin.file), len(self._sources))
            line = _NO_LINE if origin.line is None else origin.line
            self._lengths.append(0 if tokens is None else len(tokens.input_ids))
            self._places.append((source, line, origin.row))

    def build(self) -> TokenStore:
        """The store of everything that was added."""
        empty = np.empty(0, np.int32)
        return TokenStore(
            np.concatenate([empty, *self._input_ids]),
            np.concatenate([empty, *self._labels]),
            np.concatenate([[0], np.cumsum(self._lengths, dtype=np.int64)]),
            np.asarray(self._places, np.int64).reshape(-1, 3),
            tuple(self._sources),
        )


class TokenizedSet(Sequence[Example]):
    """Rows of a store, in the order in which they are read."""

    def __init__(self, store: TokenStore, order: LongArray) -> None:
        self._store = store
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> TokenizedSet: ...
    def __getitem__(self, index: int | slice) -> Example | TokenizedSet:
        if isinstance(index, slice):
            return TokenizedSet(self._store, self._order[index])
        row = int(self._order[index])
        span = slice(int(self._store.offsets[row]), int(self._store.offsets[row + 1]))
        return Example(
            self._store.input_ids[span], self._store.labels[span], self._store.origin(row)
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def lengths(self) -> LongArray:
        """int64 [N]: tokens of each example."""
        return self._store.lengths[self._order]

    @cached_property
    def num_trained_tokens(self) -> int:
        """Tokens that are learned, over all examples."""
        return int(self._store.num_trained[self._order].sum())

    @property
    def num_tokens(self) -> int:
        """Tokens, over all examples."""
        return int(self.lengths.sum())

    def fingerprint(self) -> str:
        """sha256 over lengths, ids and labels in order: equal sets train alike."""
        digest = hashlib.sha256(self.lengths.astype("<i8").tobytes())
        for example in self:
            digest.update(example.input_ids.astype("<i4").tobytes())
            digest.update(example.labels.astype("<i4").tobytes())
        return digest.hexdigest()


def _flat(rows: Sequence[Sequence[int]]) -> IntArray:
    return np.fromiter(chain.from_iterable(rows), np.int32)

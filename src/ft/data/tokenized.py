"""Tokenized records, held flat: a few numbers a row beside the tokens themselves.

input_ids   a a a b b b b c c        TokenStore: arrays only, so that it can be mapped from a file
labels      - a a - - b b - c
offsets     0     3       7   9
TokenizedSet = a store and the order in which its rows are read
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ft.data.records import Origin

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

WEIGHT = "weight"
"""The values by which a token counts in the mean, fp32 [T]."""
TEACHER_IDS, TEACHER_LOGPROBS = "teacher_ids", "teacher_logprobs"
"""A teacher's most likely tokens, int64 [T, K], and their logprobs, fp32 [T, K]."""

NO_LINE = -1
"""Stands for the line of a record whose format has none."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row: int32 ids and labels of equal length, where they came from, and what else is known.

    `values` are those of ft.data.values.
    """

    input_ids: IntArray
    labels: IntArray
    origin: Origin
    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenStore:
    """Rows end to end. N rows, T tokens. The arrays may be mapped from files, and read-only.

    Attributes:
        input_ids: int32 [T].
        labels: int32 [T], `IGNORE_INDEX` where a token is not trained.
        offsets: int64 [N + 1]; a row of no tokens stands for one that can't be used.
        num_trained: int32 [N]: trained tokens; a row's first is never predicted, so it counts not.
        places: int64 [N, 3]: index into `sources`, line (`NO_LINE` = none), row of the record.
        weights: float32 [N]: what each token of a row counts in the mean of the loss.
        teacher_counts: uint8 [T]: entries of a teacher for each token; empty where there is none.
        teacher_ids: int32 [E]: token after token.
        teacher_logprobs: float32 [E].
        sources: (data set, file) pairs.
        digest: sha256 over all that decides what is trained.
    """

    input_ids: IntArray
    labels: IntArray
    offsets: LongArray
    num_trained: IntArray
    places: LongArray
    weights: npt.NDArray[np.float32]
    teacher_counts: npt.NDArray[np.uint8]
    teacher_ids: IntArray
    teacher_logprobs: npt.NDArray[np.float32]
    sources: tuple[tuple[str, str], ...]
    digest: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> LongArray:
        """Tokens of each row."""
        return np.diff(self.offsets)

    @cached_property
    def is_weighted(self) -> bool:
        """Whether rows count otherwise than 1."""
        return bool((self.weights != 1).any())

    def values(self, index: int) -> Mapping[str, npt.NDArray[Any]]:
        """What is known of a row's tokens beside their labels."""
        values: dict[str, npt.NDArray[Any]] = {}
        if self.is_weighted:
            values[WEIGHT] = np.full(self.lengths[index], self.weights[index], np.float32)
        if len(self.teacher_counts):
            values |= self._teacher_values(index)
        return values

    @cached_property
    def _teacher_offsets(self) -> LongArray:
        """int64 [N + 1]: where the entries of each row begin, and the end."""
        ends = np.cumsum(self.teacher_counts, dtype=np.int64)
        return np.concatenate([[0], ends])[self.offsets]

    def _teacher_values(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """[T, K] each, K the most entries of a token; no entry = a logprob of -inf."""
        span = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        entries = slice(*self._teacher_offsets[index : index + 2].tolist())
        counts = self.teacher_counts[span]
        is_entry = np.arange(int(counts.max(initial=0))) < counts[:, None]
        ids = np.zeros(is_entry.shape, np.int64)
        logprobs = np.full(is_entry.shape, -np.inf, np.float32)
        ids[is_entry] = self.teacher_ids[entries]
        logprobs[is_entry] = self.teacher_logprobs[entries]
        return {TEACHER_IDS: ids, TEACHER_LOGPROBS: logprobs}

    def origin(self, index: int) -> Origin:
        """Where a row came from."""
        source, line, row = (int(value) for value in self.places[index])
        dataset, file = self.sources[source]
        return Origin(dataset, file, None if line == NO_LINE else line, row)


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
            self._store.input_ids[span],
            self._store.labels[span],
            self._store.origin(row),
            self._store.values(row),
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def store_rows(self) -> LongArray:
        """int64 [N]: which row of the store each example is."""
        return self._order

    def picked(self, positions: LongArray) -> TokenizedSet:
        """The examples at some positions, which may come more than once."""
        return TokenizedSet(self._store, self._order[positions])

    @cached_property
    def lengths(self) -> LongArray:
        """int64 [N]: tokens of each example."""
        return self._store.lengths[self._order]

    @cached_property
    def num_trained_tokens(self) -> int:
        """Tokens that are learned, over all examples."""
        return int(self._store.num_trained[self._order].sum(dtype=np.int64))

    @property
    def num_tokens(self) -> int:
        """Tokens, over all examples."""
        return int(self.lengths.sum())

    def fingerprint(self) -> str:
        """sha256 of the store and of the order: sets of equal fingerprints train alike."""
        order = self._order.astype("<i8").tobytes()
        return hashlib.sha256(self._store.digest.encode() + order).hexdigest()

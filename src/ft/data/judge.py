"""Which of a chunk's rows can be used, and the account of those that can't.

    rows of all records --cut, if asked for--> end to end, as arrays --measured--> kept or at fault

Whatever can be said of numbers is said of all rows at once; only records that are lost are looked
at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, dropwhile, islice, takewhile
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ft.data.chat.labels import END_TOKEN_REACH
from ft.data.layout import MIN_TOKENS, StrategyOptions
from ft.data.records import Origin, Record
from ft.data.report import (
    NOTHING_TRAINED,
    TOO_LONG,
    TOO_SHORT,
    DatasetReport,
    Drop,
    shortened,
)
from ft.data.segments import IGNORE_INDEX, Tokens
from ft.data.store_builder import Rows
from ft.data.tokenized import NO_LINE, IntArray, LongArray
from ft.runtime.errors import Problem, UserError

Excess = Literal["drop", "truncate", "raise"] | None

_NO_ROW = Tokens([], [])
"""Holds the place of a record of which the strategy made no row at all."""


class Judge:
    """Judges the rows of a chunk's records, and keeps count."""

    def __init__(
        self, path: str, options: StrategyOptions, excess: Excess, end_ids: frozenset[int]
    ) -> None:
        """Starts an account.

        Args:
            path: The data set's, as the YAML gives it.
            options: How long and how short a row may be.
            excess: `excess_length_strategy`.
            end_ids: Tokens that end a turn.
        """
        self._limit, self._least = options.sequence_len, options.min_sample_len
        self._too_short = TOO_SHORT.format(self._least)
        # What can be wrong with a row, by number; the first that applies counts.
        self._kinds = ("", TOO_LONG, self._too_short, NOTHING_TRAINED)
        self._excess = excess
        self._end_ids = end_ids
        self._trains_ends = options.labels is None
        self.report = DatasetReport(path, "")
        self.sample: dict[str, Any] | None = None

    def judge(
        self,
        records: Sequence[Record],
        made: Sequence[Sequence[Tokens]],
        weights: Sequence[float] | None = None,
    ) -> Rows:
        """The rows, those that can't be used without tokens; counts the records.

        Args:
            records: In their order.
            made: What the tokenizer made of each.
            weights: What each counts; None = 1.

        Raises:
            UserError: A row is too long, and `excess_length_strategy` is raise.
        """
        rows = [row for rows_of in made for row in rows_of or (_NO_ROW,)]
        owners = np.repeat(np.arange(len(made)), [len(rows_of) or 1 for rows_of in made])
        self._fit(rows, owners, records)
        flat = _Flat.of(rows)
        faults = self._faults(flat)
        is_kept = faults == 0
        self._count(rows, owners, flat, is_kept)
        kept_owners = owners[is_kept]
        if self.sample is None and len(kept_owners):
            self.sample = records[kept_owners[0]].fields
        is_lost = np.ones(len(made), bool)
        is_lost[kept_owners] = False
        fault_of = dict(zip(owners[::-1].tolist(), faults[::-1].tolist(), strict=True))
        for owner in np.flatnonzero(is_lost).tolist():
            fault = self._kinds[fault_of[owner]] if made[owner] else NOTHING_TRAINED
            self._drop_unfit(records[owner], made[owner], fault)
        places, sources = _places([record.origin for record in records])
        judged = flat.rows(is_kept, places[owners], sources)
        if weights is None:
            return judged
        return replace(judged, weights=np.asarray(weights, np.float32)[owners])

    def drop(self, record: Record, reason: str, detail: str, *, is_consented: bool = False) -> None:
        """Counts a record that is lost."""
        self.report.drop(Drop.of(record, reason, detail), is_consented=is_consented)

    def _fit(self, rows: list[Tokens], owners: LongArray, records: Sequence[Record]) -> None:
        """Cuts rows to `sequence_len` if the user wants that; their end is lost, as in axolotl."""
        if self._excess not in ("raise", "truncate"):
            return
        limit = self._limit
        for number, row in enumerate(rows):
            if len(row.input_ids) <= limit:
                continue
            if self._excess == "raise":
                raise self._too_long(records[owners[number]], row)
            rows[number] = Tokens(row.input_ids[:limit], row.labels[:limit], row.num_wanted)

    def _too_long(self, record: Record, row: Tokens) -> UserError:
        return UserError(
            Problem(
                f"a record has {row.num_wanted:,} tokens, sequence_len is {self._limit:,}",
                where=str(record.origin),
                source=shortened(record),
                fix=f"raise sequence_len to {row.num_wanted}, "
                "or set excess_length_strategy: drop or truncate",
            )
        )

    def _faults(self, flat: _Flat) -> npt.NDArray[np.int64]:
        """[n] number of the kind of each row's fault."""
        conditions = [
            flat.lengths > self._limit,
            flat.lengths < self._least,
            flat.num_trained == 0,
        ]
        return np.select(conditions, list(range(1, len(self._kinds))), 0)

    def _count(
        self,
        rows: Sequence[Tokens],
        owners: LongArray,
        flat: _Flat,
        is_kept: npt.NDArray[np.bool_],
    ) -> None:
        """Takes the records of which something is kept, and their rows, into the account."""
        kept_owners, num_kept_of = np.unique(owners[is_kept], return_counts=True)
        num_wanted = np.array([row.num_wanted for row in rows], np.int64)
        is_cut_row = is_kept & (num_wanted > flat.lengths)
        is_cut = np.isin(kept_owners, owners[is_cut_row])
        last_rows = np.flatnonzero(is_kept)[np.cumsum(num_kept_of) - 1]
        has_end = np.isin(flat.last_labels[last_rows], list(self._end_ids))
        for number in np.flatnonzero(~has_end).tolist():
            has_end[number] = _ends(rows[last_rows[number]], self._end_ids)
        num_rows = int(is_kept.sum())
        report = self.report
        report.num_kept += len(kept_owners)
        report.num_rows += num_rows
        report.num_lost_rows += int(np.isin(owners, kept_owners).sum()) - num_rows
        report.num_tokens += int(flat.lengths[is_kept].sum())
        report.num_trained_tokens += int(flat.num_trained[is_kept].sum())
        report.num_truncated += int(is_cut.sum())
        report.num_without_end += int((~is_cut & ~has_end).sum()) if self._trains_ends else 0

    def _drop_unfit(self, record: Record, rows: Sequence[Tokens], fault: str) -> None:
        num_wanted = sum(row.num_wanted for row in rows)
        detail = f"{num_wanted:,} tokens"
        if fault == TOO_LONG:
            self.report.longest = max(self.report.longest, num_wanted)
            detail += f", sequence_len is {self._limit:,}"
        is_asked_for = fault == self._too_short and self._least > MIN_TOKENS
        is_consented = is_asked_for or (fault == TOO_LONG and self._excess == "drop")
        self.drop(record, fault, detail, is_consented=is_consented)


@dataclass(frozen=True, eq=False)
class _Flat:
    """Rows end to end. n rows, t tokens.

    Attributes:
        input_ids: int32 [t].
        labels: int32 [t].
        lengths: [n] tokens of each row.
        num_trained: [n] tokens that are learned; a row's first has none to be predicted from.
        last_labels: [n] label of the last of them, `IGNORE_INDEX` where there is none.
    """

    input_ids: IntArray
    labels: IntArray
    lengths: LongArray
    num_trained: LongArray
    last_labels: IntArray

    @classmethod
    def of(cls, rows: Sequence[Tokens]) -> _Flat:
        """The rows as arrays."""
        lengths = np.array([len(row.input_ids) for row in rows], np.int64)
        ends = np.cumsum(lengths)
        num_tokens = int(lengths.sum())
        labels = _joined((row.labels for row in rows), num_tokens)
        is_learned = labels != IGNORE_INDEX
        is_learned[(ends - lengths)[lengths > 0]] = False
        learned = np.flatnonzero(is_learned)
        num_learned = np.searchsorted(learned, ends)  # up to and with each row
        num_trained = np.diff(num_learned, prepend=0)
        last_labels = np.full(len(rows), IGNORE_INDEX, np.int32)
        has_trained = num_trained > 0
        last_labels[has_trained] = labels[learned[num_learned[has_trained] - 1]]
        ids = _joined((row.input_ids for row in rows), num_tokens)
        return cls(ids, labels, lengths, num_trained, last_labels)

    def rows(
        self,
        is_kept: npt.NDArray[np.bool_],
        places: LongArray,
        sources: tuple[tuple[str, str], ...],
    ) -> Rows:
        """What goes into a store: rows that aren't kept have no tokens there."""
        is_kept_token = slice(None) if is_kept.all() else np.repeat(is_kept, self.lengths)
        return Rows(
            self.input_ids[is_kept_token],
            self.labels[is_kept_token],
            np.where(is_kept, self.lengths, 0),
            np.where(is_kept, self.num_trained, 0).astype(np.int32),
            places,
            sources,
        )


def _joined(parts: Iterator[list[int]], num_tokens: int) -> IntArray:
    return np.fromiter(chain.from_iterable(parts), np.int32, num_tokens)


def _places(origins: Sequence[Origin]) -> tuple[LongArray, tuple[tuple[str, str], ...]]:
    """[n, 3] and sources, as a store has them."""
    sources: dict[tuple[str, str], int] = {}
    places = [
        (
            sources.setdefault((origin.dataset, origin.file), len(sources)),
            NO_LINE if origin.line is None else origin.line,
            origin.row,
        )
        for origin in origins
    ]
    return np.asarray(places, np.int64).reshape(-1, 3), tuple(sources)


def _ends(row: Tokens, end_ids: frozenset[int]) -> bool:
    """Whether a row's last trained tokens hold one that ends a turn.

    White space or the next turn's BOS may be trained behind it (llama2_chat ends in `</s><s>`).
    """
    backwards = dropwhile(lambda label: label == IGNORE_INDEX, reversed(row.labels))
    last_run = takewhile(lambda label: label != IGNORE_INDEX, backwards)
    return any(label in end_ids for label in islice(last_run, END_TOKEN_REACH + 1))

"""Records -> rows, a chunk at a time: what is done in the process itself or in workers, alike.

A chunk's rows and its part of the account depend on the chunk alone, so the number of workers
changes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ft.data.layout import MIN_TOKENS, Strategy, StrategyOptions
from ft.data.quick_tokenizer import quick
from ft.data.records import BrokenRecord, Chunk, Origin, Record
from ft.data.report import (
    NOTHING_TRAINED,
    RECORD_WIDTH,
    TOO_LONG,
    TOO_SHORT,
    DatasetReport,
    Drop,
)
from ft.data.segments import IGNORE_INDEX, RecordError, Rendered, Tokens
from ft.data.store_builder import Rows
from ft.data.strategy import build_strategy
from ft.data.strategy_file import StrategySource
from ft.data.tokenize import tokenize
from ft.data.tokenized import NO_LINE, IntArray
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Excess = Literal["drop", "truncate", "raise"] | None


@dataclass(frozen=True)
class Recipe:
    """What decides the rows of a data set's records, the tokenizer aside.

    Attributes:
        spec: The entry of `datasets:`.
        source: The user's strategy file, if the entry names one.
        options: The keys beside `datasets:` that decide how records are laid out.
        excess: `excess_length_strategy`.
    """

    spec: DatasetSpec
    source: StrategySource | None
    options: StrategyOptions
    excess: Excess


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """What became of a chunk.

    Attributes:
        rows: Its rows.
        report: Its part of the data set's account.
        sample: The fields of the first record that is kept.
    """

    rows: Rows
    report: DatasetReport
    sample: dict[str, Any] | None


class ChunkTokenizer:
    """Turns chunks of one data set into rows."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        strategy: Strategy | None = None,
    ) -> None:
        """Builds the strategy, unless it is there already; that runs the code of a user's file."""
        self._recipe = recipe
        self._tokenizer = quick(tokenizer)
        self._strategy = strategy or build_strategy(
            recipe.spec, recipe.source, tokenizer, recipe.options
        )
        self._end_ids = _end_ids(recipe.options.eot_tokens, tokenizer)

    def run(self, chunk: Chunk) -> TokenizedChunk:
        """The rows of a chunk.

        Raises:
            UserError: A record is too long, and `excess_length_strategy` is raise.
        """
        account = _Account(self._recipe, self._end_ids)
        rendered: list[tuple[Record, Rendered]] = []
        for raw in chunk.records():
            account.report.num_read += 1
            if isinstance(raw, BrokenRecord):
                reason = f"broken line: {raw.reason}"
                account.report.drop(Drop(reason, raw.origin, raw.detail))
                continue
            try:
                rendered.append((raw, self._strategy.render(raw.fields)))
            except RecordError as error:
                account.drop(raw, error.reason, error.detail)
        all_rows = tokenize([each for _, each in rendered], self._tokenizer)
        collected = _Collected()
        for (record, _), rows in zip(rendered, all_rows, strict=True):
            collected.add(account.judge(record, rows), record.origin)
        return TokenizedChunk(collected.rows(), account.report, account.sample)


class _Account:
    """Judges the rows of a chunk's records, and keeps count."""

    def __init__(self, recipe: Recipe, end_ids: frozenset[int]) -> None:
        self._limit = recipe.options.sequence_len
        self._least = recipe.options.min_sample_len
        self._too_short = TOO_SHORT.format(self._least)
        self._excess = recipe.excess
        self._end_ids = end_ids
        self.report = DatasetReport(recipe.spec.path, "")
        self.sample: dict[str, Any] | None = None

    def judge(self, record: Record, rows: Sequence[Tokens]) -> list[Tokens | None]:
        """The rows that can be used, None in the place of others; counts the record."""
        fitted = [self._fit(record, row) for row in rows]
        faults = [self._fault(row) for row in fitted]
        kept = [row for row, fault in zip(fitted, faults, strict=True) if fault is None]
        if not kept:
            self._drop_unfit(record, rows, (faults or [None])[0] or NOTHING_TRAINED)
            return [None] * max(len(rows), 1)
        if self.sample is None:
            self.sample = record.fields
        report = self.report
        report.num_kept += 1
        report.num_rows += len(kept)
        report.num_lost_rows += len(rows) - len(kept)
        report.num_tokens += sum(len(row.input_ids) for row in kept)
        report.num_trained_tokens += sum(map(_num_trained, kept))
        is_cut = any(row.num_wanted > len(row.input_ids) for row in kept)
        report.num_truncated += is_cut
        if not is_cut and not _ends(kept[-1], self._end_ids):
            report.num_without_end += 1
        return [row if fault is None else None for row, fault in zip(fitted, faults, strict=True)]

    def drop(self, record: Record, reason: str, detail: str, *, is_consented: bool = False) -> None:
        """Counts a record that is lost."""
        drop = Drop(reason, record.origin, detail, _shorten(record))
        self.report.drop(drop, is_consented=is_consented)

    def _fit(self, record: Record, row: Tokens) -> Tokens:
        """The row, cut to `sequence_len` if the user wants that; its end is lost, as in axolotl."""
        limit = self._limit
        if len(row.input_ids) <= limit:
            return row
        if self._excess == "raise":
            raise UserError(
                Problem(
                    f"a record has {row.num_wanted:,} tokens, sequence_len is {limit:,}",
                    where=str(record.origin),
                    source=_shorten(record),
                    fix=f"raise sequence_len to {row.num_wanted}, "
                    "or set excess_length_strategy: drop or truncate",
                )
            )
        if self._excess == "truncate":
            return Tokens(row.input_ids[:limit], row.labels[:limit], row.num_wanted)
        return row

    def _fault(self, row: Tokens) -> str | None:
        if len(row.input_ids) > self._limit:
            return TOO_LONG
        if len(row.input_ids) < self._least:
            return self._too_short
        return None if _num_trained(row) else NOTHING_TRAINED

    def _drop_unfit(self, record: Record, rows: Sequence[Tokens], fault: str) -> None:
        num_wanted = sum(row.num_wanted for row in rows)
        detail = f"{num_wanted:,} tokens"
        if fault == TOO_LONG:
            self.report.longest = max(self.report.longest, num_wanted)
            detail += f", sequence_len is {self._limit:,}"
        is_asked_for = fault == self._too_short and self._least > MIN_TOKENS
        is_consented = is_asked_for or (fault == TOO_LONG and self._excess == "drop")
        self.drop(record, fault, detail, is_consented=is_consented)


class _Collected:
    """The rows of a chunk, as they come."""

    def __init__(self) -> None:
        self._input_ids, self._labels = array("i"), array("i")
        self._lengths: list[int] = []
        self._num_trained: list[int] = []
        self._places: list[tuple[int, int, int]] = []
        self._sources: dict[tuple[str, str], int] = {}

    def add(self, rows: Sequence[Tokens | None], origin: Origin) -> None:
        source = self._sources.setdefault((origin.dataset, origin.file), len(self._sources))
        line = NO_LINE if origin.line is None else origin.line
        for row in rows:
            if row is not None:
                self._input_ids.extend(row.input_ids)
                self._labels.extend(row.labels)
            self._lengths.append(0 if row is None else len(row.input_ids))
            self._num_trained.append(0 if row is None else _num_trained(row))
            self._places.append((source, line, origin.row))

    def rows(self) -> Rows:
        return Rows(
            _as_int32(self._input_ids),
            _as_int32(self._labels),
            np.asarray(self._lengths, np.int64),
            np.asarray(self._num_trained, np.int32),
            np.asarray(self._places, np.int64).reshape(-1, 3),
            tuple(self._sources),
        )


def _as_int32(values: array[int]) -> IntArray:
    return np.frombuffer(values, np.intc).astype(np.int32, copy=False)


def _num_trained(row: Tokens) -> int:
    """Tokens that are learned; the first has none before it to be predicted from."""
    labels = row.labels
    if not labels:
        return 0
    return len(labels) - labels.count(IGNORE_INDEX) - (labels[0] != IGNORE_INDEX)


def _ends(row: Tokens, end_ids: frozenset[int]) -> bool:
    """Whether the last trained token of a row ends a turn."""
    last = next(label for label in reversed(row.labels) if label != IGNORE_INDEX)
    return last in end_ids


def _end_ids(eot_tokens: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    ids = tokenizer.convert_tokens_to_ids(list(eot_tokens))
    return frozenset({tokenizer.eos_token_id, *ids} - {None})


def _shorten(record: Record) -> str:
    text = repr(record.fields)
    return text if len(text) <= RECORD_WIDTH else text[: RECORD_WIDTH - 3] + "..."

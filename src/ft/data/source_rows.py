"""Records and the rows that are made of them, as they stand in the data set: nothing is left out.

What a run trains on comes from ``prepare``; this is what a person looks at, and what `ft preview
--dump` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.data.classification.find import with_labels_found
from ft.data.layout import Strategy, StrategyOptions
from ft.data.records import BrokenRecord, Origin, RawRecord, RecordSource
from ft.data.segments import RecordError, Rendered, Tokens
from ft.data.sources import read_records
from ft.data.strategy import resolve_strategy
from ft.data.tokenize import tokenize
from ft.spec.runspec import DatasetSpec, DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 500
"""Records that are tokenized in one call."""


@dataclass(frozen=True)
class SourceRows:
    """What one record became.

    Attributes:
        origin: Where the record is.
        rows: Its rows, before any is cut to `sequence_len` or left out; empty if it can't be read.
        error: Why it can't be read; empty if it can.
    """

    origin: Origin
    rows: tuple[Tokens, ...] = ()
    error: str = ""


class SourceReader:
    """Reads one data set; any number of times."""

    def __init__(
        self,
        entry: DatasetSpec,
        base_dir: Path,
        tokenizer: PreTrainedTokenizerBase,
        options: StrategyOptions,
        *,
        streams: bool = False,
    ) -> None:
        """Finds the data set and its strategy.

        Args:
            entry: The entry of `datasets:`.
            base_dir: The YAML's folder.
            tokenizer: The model's tokenizer.
            options: The keys beside `datasets:`.
            streams: It is a stream: its first records are read, and no more.

        Raises:
            UserError: One of them is not there.
        """
        self.entry = entry
        self.task = options.labels.task if options.labels else None
        self.strategy: Strategy = resolve_strategy(entry, base_dir, tokenizer, options).strategy
        records = read_records(entry, base_dir, streams=streams)
        self._records: RecordSource = records.head() if streams else records
        self._tokenizer = tokenizer

    def read(self, batch: int = _BATCH) -> Iterator[SourceRows]:
        """All records in source order, broken ones among them.

        Args:
            batch: Records that are read and tokenized at once.
        """
        records = iter(self._records)
        while raws := list(islice(records, batch)):
            yield from self._tokenize(raws)

    def _tokenize(self, raws: list[RawRecord]) -> Iterable[SourceRows]:
        outcomes = [self._render(raw) for raw in raws]
        rendered = [each for each in outcomes if not isinstance(each, str)]
        rows = iter(tokenize(rendered, self._tokenizer))
        for raw, outcome in zip(raws, outcomes, strict=True):
            if isinstance(outcome, str):
                yield SourceRows(raw.origin, error=outcome)
                continue
            made = tuple(next(rows))
            yield SourceRows(raw.origin, made, "" if made else "the strategy made no rows")

    def _render(self, raw: RawRecord) -> Rendered | str:
        """What the strategy makes of the record, or why it can't."""
        if isinstance(raw, BrokenRecord):
            return f"broken line: {raw.reason}" + (f": {raw.detail}" if raw.detail else "")
        try:
            return self.strategy.render(raw.fields)
        except RecordError as error:
            return str(error)


def source_readers(
    spec: DataSpec, base_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> Iterator[SourceReader]:
    """One a data set, `test_datasets` last.

    Raises:
        UserError: A data set or a layout is not there.
    """
    options = StrategyOptions.of(with_labels_found(spec, base_dir))
    for entry in spec.datasets:
        yield SourceReader(entry, base_dir, tokenizer, options, streams=spec.streaming)
    for entry in spec.test_datasets:
        yield SourceReader(entry, base_dir, tokenizer, options)


def dump_lines(
    spec: DataSpec, *, base_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """One JSON line a row, in source order, before anything is cut, left out, shuffled or packed.

    `{"dataset", "row", "input_ids", "labels"}`, and `"part"` where a record is cut into several
    rows; `{"dataset", "row", "error"}` for a record that can't be laid out. `dataset` is the path
    as the YAML gives it, `row` the record's place in the data set, from 0. Of a stream, its first
    records alone.

    Raises:
        UserError: A data set or a layout is not there.
    """
    for reader in source_readers(spec, base_dir, tokenizer):
        for record in reader.read():
            for line in _lines_of(record, reader.entry.path):
                yield json.dumps(line, ensure_ascii=False) + "\n"


def _lines_of(record: SourceRows, dataset: str) -> Iterator[dict[str, Any]]:
    place = {"dataset": dataset, "row": record.origin.row}
    if record.error:
        yield {**place, "error": record.error}
    for part, row in enumerate(record.rows):
        numbered = {**place, "part": part} if len(record.rows) > 1 else place
        yield {**numbered, "input_ids": _plain(row.input_ids), "labels": _plain(row.labels)}


def _plain(values: Iterable[Any]) -> list[int]:
    """Plain integers: a user's strategy may give those of a library."""
    return [int(value) for value in values]

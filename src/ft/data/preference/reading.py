"""Preference records and the rows that are made of them, as they stand in the data set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.data.layout import StrategyOptions
from ft.data.preference.records import Judged, PreferenceRecord
from ft.data.preference.strategy import PreferenceStrategy, preference_strategy
from ft.data.preference.tokens import Rows
from ft.data.quick_tokenizer import quick
from ft.data.records import BrokenRecord, Origin, RawRecord, RecordSource
from ft.data.report import Drop
from ft.data.segments import RecordError
from ft.data.sources import read_records
from ft.spec.runspec import DatasetSpec, DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 500
"""Records that are tokenized in one call."""


@dataclass(frozen=True)
class ReadRecord:
    """What one record became.

    Attributes:
        raw: The record itself.
        texts: What the layout made of it; None if it can't be laid out.
        rows: Its rows by part; empty if it can't be laid out.
        drop: Why it can't be laid out; None if it can.
    """

    raw: RawRecord
    texts: PreferenceRecord | None = None
    rows: Rows = field(default_factory=dict)
    drop: Drop | None = None

    @property
    def origin(self) -> Origin:
        """Where the record is."""
        return self.raw.origin

    @property
    def error(self) -> str:
        """Why it can't be laid out, in a line; empty if it can."""
        if self.drop is None:
            return ""
        return f"{self.drop.reason}: {self.drop.detail}" if self.drop.detail else self.drop.reason


class PreferenceReader:
    """Reads one data set; any number of times."""

    def __init__(
        self,
        objective: str,
        entry: DatasetSpec,
        base_dir: Path,
        tokenizer: PreTrainedTokenizerBase,
        options: StrategyOptions,
    ) -> None:
        """Finds the data set and its layout.

        Raises:
            UserError: One of them is not there.
        """
        self.entry = entry
        self.strategy: PreferenceStrategy = preference_strategy(
            objective, entry, options, quick(tokenizer)
        )
        self.source: RecordSource = read_records(entry, base_dir)

    def read(self, batch: int = _BATCH) -> Iterator[ReadRecord]:
        """All records in source order, broken ones among them.

        Args:
            batch: Records that are read and tokenized at once.
        """
        records = iter(self.source)
        while raws := list(islice(records, batch)):
            outcomes = [self._render(raw) for raw in raws]
            rows = iter(
                self.strategy.tokenize([each for each in outcomes if not isinstance(each, Drop)])
            )
            for raw, outcome in zip(raws, outcomes, strict=True):
                if isinstance(outcome, Drop):
                    yield ReadRecord(raw, drop=outcome)
                else:
                    yield ReadRecord(raw, outcome, next(rows))

    def _render(self, raw: RawRecord) -> PreferenceRecord | Drop:
        if isinstance(raw, BrokenRecord):
            return Drop(f"broken line: {raw.reason}", raw.origin, raw.detail)
        try:
            return self.strategy.render(raw.fields)
        except RecordError as error:
            return Drop.of(raw, error.reason, error.detail)


def open_sets(
    objective: str, data: DataSpec, *, base_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> list[PreferenceReader]:
    """A reader for each of `datasets:`, then of `test_datasets:`.

    Raises:
        UserError: A data set or a layout is not there.
    """
    options = StrategyOptions.of(data)
    entries: Sequence[DatasetSpec] = (*data.datasets, *data.test_datasets)
    return [PreferenceReader(objective, each, base_dir, tokenizer, options) for each in entries]


def dump_preferences(
    objective: str, data: DataSpec, *, base_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    """One JSON line a part of a record, in source order, before anything is left out.

    `{"dataset", "row", "part", "input_ids", "labels"}`: the parts of a pair are `chosen` and
    `rejected`, that of a judged answer is `completion`, with its judgment as `"label"`, that of a
    chain of steps `steps`; `{"dataset", "row", "error"}` for a record that can't be laid out.

    Raises:
        UserError: A data set or a layout is not there.
    """
    for reader in open_sets(objective, data, base_dir=base_dir, tokenizer=tokenizer):
        for record in reader.read():
            for line in _lines_of(record, reader.entry.path):
                yield json.dumps(line, ensure_ascii=False) + "\n"


def _lines_of(record: ReadRecord, dataset: str) -> Iterator[Mapping[str, Any]]:
    place = {"dataset": dataset, "row": record.origin.row}
    if record.drop is not None:
        yield {**place, "error": record.error}
    judgment = {"label": record.texts.is_desirable} if isinstance(record.texts, Judged) else {}
    for part, row in record.rows.items():
        ids_and_labels = {"input_ids": row.input_ids, "labels": row.labels}
        yield {**place, "part": part, **judgment, **ids_and_labels}

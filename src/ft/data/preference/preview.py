"""What a model would learn preferences from: `ft preview` of a file that asks for that.

One pass over the records: the first few as text, all of them counted, the doubtful ones named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ft.data.account import NUM_TRUNCATED_SHOWN, Account, Scan, ScannedRow
from ft.data.excerpt import spans_of, tokens_of
from ft.data.intake import Progress, type_name
from ft.data.lengths import summarize_lengths
from ft.data.preference.reading import PreferenceReader, ReadRecord, open_sets
from ft.data.preference.records import Judged, Preference, Steps
from ft.data.prepare import drops_problem
from ft.data.preview import DataPreview, RecordPreview, RowPreview, SetPreview
from ft.data.records import BrokenRecord, Origin
from ft.data.report import NOTHING_TRAINED, TOO_LONG, DatasetReport, Drop, DropTally, count
from ft.data.segments import IGNORE_INDEX, Tokens
from ft.runtime.errors import Problem
from ft.spec.runspec import DataSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUM_PLACES = 3
"""So many places of doubtful records are named."""

_PROGRESS_EVERY = 500

_ALIKE = "the better answer and the worse one are the same, so nothing is learned"


def preview_preferences(
    objective: str,
    data: DataSpec,
    *,
    tokenizer: PreTrainedTokenizerBase,
    base_dir: Path,
    num_records: int = 3,
    on_progress: Progress | None = None,
) -> DataPreview:
    """Reads all of a file's preference records and says what they come to.

    Args:
        objective: A value of `rl:`, or `reward_model` or `process_reward_model`.
        data: The file's data section.
        tokenizer: The model's tokenizer.
        base_dir: The YAML's folder.
        num_records: Records to show of each data set.
        on_progress: Called with what is done, how many records are through, and of how many.

    Raises:
        UserError: A data set or a layout is not there. What is wrong with the records themselves
            is in `problems`.
    """
    readers = open_sets(objective, data, base_dir=base_dir, tokenizer=tokenizer)
    scan = Scan()
    looks = [
        _Look(reader, data, index >= len(data.datasets), tokenizer, num_records)
        for index, reader in enumerate(readers)
    ]
    sets = [look.through(scan, on_progress) for look in looks]
    warnings = [warning for look in looks for warning in look.warnings()]
    warnings.append(
        f"training with preferences ({objective}) is not built yet: `ft train` refuses this"
    )
    problems = tuple(_problems([look.report for look in looks], data))
    return DataPreview(tuple(sets), data.sequence_len, None, tuple(warnings), problems)


def _problems(reports: Sequence[DatasetReport], data: DataSpec) -> Iterator[Problem]:
    too_many = drops_problem(reports, data.max_drop)
    if too_many is not None:
        yield too_many
    for report in reports:
        if data.excess_length_strategy == "raise" and TOO_LONG in report.drops:
            first = report.drops[TOO_LONG].examples[0]
            yield Problem(
                f"a record is too long ({first.detail}), and excess_length_strategy is raise",
                where=str(first.origin),
                fix=f"raise sequence_len to {report.longest}",
            )
    if not too_many and not any(report.num_kept for report in reports if not report.is_heldout):
        account = [line for report in reports for line in report.render()]
        yield Problem("no records to train on", fix="\n".join(account))


@dataclass
class _Look:
    """One look through a data set, from its first record to its last."""

    reader: PreferenceReader
    data: DataSpec
    is_heldout: bool
    tokenizer: PreTrainedTokenizerBase
    num_records: int
    shown: list[RecordPreview] = field(default_factory=list)
    truncated: list[tuple[Origin, int]] = field(default_factory=list)
    doubts: dict[str, DropTally] = field(default_factory=dict)
    judgments: Counter[bool] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        entry = self.reader.entry
        notes = [*self.reader.source.notes, *self.reader.strategy.notes]
        self.report = DatasetReport(entry.path, type_name(entry), self.is_heldout, notes=notes)

    def through(self, scan: Scan, on_progress: Progress | None) -> SetPreview:
        """Everything that there is to show of it."""
        lengths, duplicates = scan.read(self._kept(on_progress), self.is_heldout)
        report = self.report
        if self.judgments:
            good, bad = self.judgments[True], self.judgments[False]
            report.notes.append(f"judged good: {good:,}, judged bad: {bad:,}")
        truncated = tuple(self.truncated)
        account = Account(report, summarize_lengths(lengths), duplicates, truncated)
        shown = tuple(self.shown)
        return SetPreview(report.path, report.type, self.is_heldout, shown, account)

    def warnings(self) -> Iterator[str]:
        """What looks wrong in records that axolotl trains on all the same."""
        for doubt, tally in self.doubts.items():
            places = ", ".join(str(drop.origin) for drop in tally.examples[:_NUM_PLACES])
            more = ", ..." if tally.count > _NUM_PLACES else ""
            of = f"{tally.count:,} of {count(self.report.num_read, 'record')}"
            yield f"{self.report.path}: {doubt}: {of} ({places}{more})"

    def _kept(self, on_progress: Progress | None) -> Iterator[ScannedRow]:
        """The rows of the records that can be used; counts all of them."""
        report = self.report
        for record in self.reader.read():
            report.num_read += 1
            if on_progress is not None and report.num_read % _PROGRESS_EVERY == 0:
                total = self.reader.source.num_records
                on_progress(f"reading {report.path}", report.num_read, total)
            if len(self.shown) < self.num_records:
                self.shown.append(self._show(record))
            self._doubt(record)
            rows = [] if record.drop else [self._fit(row) for row in record.rows.values()]
            drop = record.drop or self._fault(record, rows)
            if drop is not None:
                # Where the user forbids long records, they are a problem of their own.
                is_said = self.data.excess_length_strategy in ("drop", "raise")
                report.drop(drop, is_consented=drop.reason == TOO_LONG and is_said)
                continue
            self._count(record, rows)
            key = repr([row.input_ids for row in rows]).encode()
            for part, row in zip(record.rows, rows, strict=True):
                yield ScannedRow(part.encode() + key, len(row.input_ids), record.origin)

    def _count(self, record: ReadRecord, rows: Sequence[Tokens]) -> None:
        report = self.report
        report.num_kept += 1
        report.num_rows += len(rows)
        report.num_tokens += sum(len(row.input_ids) for row in rows)
        report.num_trained_tokens += sum(map(_num_trained, rows))
        cut = [row.num_wanted for row in rows if row.num_wanted > len(row.input_ids)]
        report.num_truncated += bool(cut)
        if cut and len(self.truncated) < NUM_TRUNCATED_SHOWN:
            self.truncated.append((record.origin, max(cut)))
        if isinstance(record.texts, Judged):
            self.judgments[record.texts.is_desirable] += 1

    def _fit(self, row: Tokens) -> Tokens:
        limit = self.data.sequence_len
        if len(row.input_ids) <= limit or self.data.excess_length_strategy != "truncate":
            return row
        return Tokens(row.input_ids[:limit], row.labels[:limit], row.num_wanted)

    def _fault(self, record: ReadRecord, rows: Sequence[Tokens]) -> Drop | None:
        """Why a record that can be laid out can't be used; None if it can."""
        assert not isinstance(record.raw, BrokenRecord)  # which has no rows
        longest = max(row.num_wanted for row in rows)
        if any(len(row.input_ids) > self.data.sequence_len for row in rows):
            self.report.longest = max(self.report.longest, longest)
            detail = f"{longest:,} tokens, sequence_len is {self.data.sequence_len:,}"
            return Drop.of(record.raw, TOO_LONG, detail)
        if not all(map(_num_trained, rows)):
            return Drop.of(record.raw, NOTHING_TRAINED, f"{longest:,} tokens")
        return None

    def _doubt(self, record: ReadRecord) -> None:
        texts = record.texts
        if not isinstance(texts, Preference):
            return
        doubt = texts.doubt or (_ALIKE if texts.chosen == texts.rejected else "")
        if doubt:
            tally = self.doubts.setdefault(doubt, DropTally())
            tally.count += 1
            if tally.count <= _NUM_PLACES:
                tally.examples.append(Drop(doubt, record.origin))

    def _show(self, record: ReadRecord) -> RecordPreview:
        rows = tuple(
            RowPreview(
                spans_of(row, self.tokenizer),
                tokens_of(row, self.tokenizer),
                _part_in_words(part, record, row),
            )
            for part, row in record.rows.items()
        )
        return RecordPreview(record.origin, rows, record.error)


def _part_in_words(part: str, record: ReadRecord, row: Tokens) -> str:
    if isinstance(record.texts, Judged):
        return f"{part}, judged {'good' if record.texts.is_desirable else 'bad'}"
    if isinstance(record.texts, Steps):
        classes = [str(label) for label in row.labels if label != IGNORE_INDEX]
        return f"{part}, labeled {' '.join(classes)}" if classes else part
    return part


def _num_trained(row: Tokens) -> int:
    return len(row.labels) - row.labels.count(IGNORE_INDEX)

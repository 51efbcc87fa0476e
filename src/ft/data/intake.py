"""One data set's way from records to rows, and the account of what is lost on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ft.data.chat import CHAT_TYPE
from ft.data.layout import StrategyOptions
from ft.data.prompt import PromptLayout, prompt_layout
from ft.data.records import BrokenRecord, RawRecord, Record
from ft.data.report import (
    NOTHING_TRAINED,
    RECORD_WIDTH,
    TOO_LONG,
    TOO_SHORT,
    DatasetReport,
    Drop,
    count,
)
from ft.data.segments import IGNORE_INDEX, RecordError, Rendered, Tokens
from ft.data.sources import read_records
from ft.data.strategy import AllowCode, ResolvedStrategy, resolve_strategy
from ft.data.tokenize import tokenize
from ft.data.tokenized import TokenStoreBuilder
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec, MappingLayout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Records that are tokenized in one call."""

MIN_TOKENS = 2
"""A shorter row has no token with another one before it: nothing to predict."""

Progress = Callable[[str, int, int | None], None]
Excess = Literal["drop", "truncate", "raise"] | None


@dataclass(frozen=True)
class IntakeOptions:
    """What holds for all data sets of a run.

    Attributes:
        tokenizer: The model's tokenizer.
        layout: The keys beside `datasets:` that decide how records are laid out.
        excess: `excess_length_strategy`.
        on_progress: Called with what is done, how many records are through, and of how many.
        allow_code: Whether a user's strategy file may be run; None allows all.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: StrategyOptions
    excess: Excess
    on_progress: Progress | None = None
    allow_code: AllowCode | None = None


class Intake:
    """Takes in one data set; `report` and `layout` say what came of it."""

    def __init__(
        self, spec: DatasetSpec, base_dir: Path, options: IntakeOptions, *, is_heldout: bool = False
    ) -> None:
        """Finds the data set and its strategy.

        Raises:
            UserError: One of them is not there.
        """
        self._spec = spec
        self._options = options
        self._resolved = resolve_strategy(
            spec, base_dir, options.tokenizer, options.layout, options.allow_code
        )
        self._source = read_records(spec, base_dir)
        self._end_ids = _end_ids(options)
        self.layout: PromptLayout | None = None
        self.report = DatasetReport(
            path=spec.path,
            type=_type_name(spec),
            is_heldout=is_heldout,
            notes=[*self._source.notes, *_layout_notes(spec)],
            strategy=_strategy_identity(self._resolved),
        )

    def run(self, builder: TokenStoreBuilder) -> None:
        """Adds the data set's rows to `builder`.

        Raises:
            UserError: A record is too long, and `excess_length_strategy` is raise.
        """
        for batch in _batches(self._source, BATCH):
            self._take(batch, builder)
            if self._options.on_progress is not None:
                self._options.on_progress(
                    f"tokenizing {self._spec.path}", self.report.num_read, self._source.num_records
                )
        self._note_losses()

    def _take(self, batch: Iterable[RawRecord], builder: TokenStoreBuilder) -> None:
        rendered: list[tuple[Record, Rendered]] = []
        for raw in batch:
            self.report.num_read += 1
            if isinstance(raw, BrokenRecord):
                self.report.drop(Drop(f"broken line: {raw.reason}", raw.origin, raw.detail))
                continue
            try:
                rendered.append((raw, self._resolved.strategy.render(raw.fields)))
            except RecordError as error:
                self._drop(raw, error.reason, error.detail)
        all_rows = tokenize([each for _, each in rendered], self._options.tokenizer)
        for (record, _), rows in zip(rendered, all_rows, strict=True):
            builder.add([(row, record.origin) for row in self._judge(record, rows)])

    def _judge(self, record: Record, rows: list[Tokens]) -> list[Tokens | None]:
        """The rows that can be used, None in the place of others; counts the record."""
        fitted = [self._fit(record, row) for row in rows]
        faults = [_fault(row, self._options.layout.sequence_len) for row in fitted]
        kept = [row for row, fault in zip(fitted, faults, strict=True) if fault is None]
        if not kept:
            self._drop_unfit(record, rows, (faults or [None])[0] or NOTHING_TRAINED)
            return [None] * max(len(rows), 1)
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
        if self.layout is None:
            self.layout = prompt_layout(
                self._spec,
                self._resolved,
                self._options.layout,
                self._options.tokenizer,
                record.fields,
            )
        return [row if fault is None else None for row, fault in zip(fitted, faults, strict=True)]

    def _fit(self, record: Record, row: Tokens) -> Tokens:
        """The row, cut to `sequence_len` if the user wants that."""
        limit = self._options.layout.sequence_len
        if len(row.input_ids) <= limit:
            return row
        if self._options.excess == "raise":
            raise UserError(
                Problem(
                    f"a record has {row.num_wanted:,} tokens, sequence_len is {limit:,}",
                    where=str(record.origin),
                    source=_shorten(record),
                    fix=f"raise sequence_len to {row.num_wanted}, "
                    "or set excess_length_strategy: drop or truncate",
                )
            )
        if self._options.excess == "truncate":
            return Tokens(row.input_ids[:limit], row.labels[:limit], row.num_wanted)
        return row

    def _drop_unfit(self, record: Record, rows: list[Tokens], fault: str) -> None:
        num_wanted = sum(row.num_wanted for row in rows)
        detail = f"{num_wanted:,} tokens"
        if fault == TOO_LONG:
            self.report.longest = max(self.report.longest, num_wanted)
            detail += f", sequence_len is {self._options.layout.sequence_len:,}"
        is_consented = fault == TOO_LONG and self._options.excess == "drop"
        self._drop(record, fault, detail, is_consented=is_consented)

    def _drop(
        self, record: Record, reason: str, detail: str, *, is_consented: bool = False
    ) -> None:
        drop = Drop(reason, record.origin, detail, _shorten(record))
        self.report.drop(drop, is_consented=is_consented)

    def _note_losses(self) -> None:
        report = self.report
        if report.num_lost_rows:
            report.notes.append(f"left out: {count(report.num_lost_rows, 'row')} of a single token")
        if not report.num_without_end:
            return
        note = (
            f"records that train no end token: {report.num_without_end:,} of {report.num_kept:,}, "
            "so the model may not learn to stop"
        )
        if self._spec.type == CHAT_TYPE:
            if self._spec.train_on_eos in ("turn", "all"):
                note += ": set eot_tokens: to the token that ends a turn in this template"
            else:
                note += f": train_on_eos is {self._spec.train_on_eos}"
        elif self._options.tokenizer.eos_token_id is None:
            note += ": the tokenizer has none, set special_tokens: eos_token"
        report.notes.append(note)


def _fault(row: Tokens, sequence_len: int) -> str | None:
    if len(row.input_ids) > sequence_len:
        return TOO_LONG
    if len(row.input_ids) < MIN_TOKENS:
        return TOO_SHORT
    return None if _num_trained(row) else NOTHING_TRAINED


def _num_trained(row: Tokens) -> int:
    """Tokens that are learned; the first has none before it to be predicted from."""
    return sum(label != IGNORE_INDEX for label in row.labels[1:])


def _ends(row: Tokens, end_ids: frozenset[int]) -> bool:
    """Whether the last trained token of a row ends a turn."""
    last = next(label for label in reversed(row.labels) if label != IGNORE_INDEX)
    return last in end_ids


def _end_ids(options: IntakeOptions) -> frozenset[int]:
    tokenizer = options.tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(options.layout.eot_tokens))
    return frozenset({tokenizer.eos_token_id, *ids} - {None})


def _layout_notes(spec: DatasetSpec) -> list[str]:
    layout = spec.type
    if not isinstance(layout, MappingLayout):
        return []
    given = layout.model_fields_set
    if "format" in given and "no_input_format" not in given and "{input}" not in layout.format:
        return [
            f"records with an empty {layout.field_input!r} are laid out by no_input_format "
            f"({layout.no_input_format!r}), not by format"
        ]
    return []


def _type_name(spec: DatasetSpec) -> str:
    if isinstance(spec.type, MappingLayout):
        return "mapping"
    return spec.type or "pre-tokenized"


def _strategy_identity(resolved: ResolvedStrategy) -> dict[str, str] | None:
    source = resolved.source
    return None if source is None else {"path": source.path, "sha256": source.sha256}


def _shorten(record: Record) -> str:
    text = repr(record.fields)
    return text if len(text) <= RECORD_WIDTH else text[: RECORD_WIDTH - 3] + "..."


def _batches(records: Iterable[RawRecord], size: int) -> Iterator[list[RawRecord]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch

"""Data sets' way from records to rows, and the account of what is lost on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ft.data.chat import CHAT_TYPE
from ft.data.chunk_tokenizer import ChunkTokenizer, Recipe, TokenizedChunk
from ft.data.judge import Excess
from ft.data.layout import Strategy, StrategyOptions
from ft.data.layouts.mapping import note_on_end_token
from ft.data.prompt import PromptLayout, prompt_layout
from ft.data.records import Chunk
from ft.data.report import DatasetReport, count
from ft.data.sources import read_records
from ft.data.store_builder import TokenStoreBuilder
from ft.data.strategy import AllowCode, ResolvedStrategy, resolve_strategy
from ft.data.workers import Job, tokenize_jobs
from ft.spec.runspec import DatasetSpec, MappingLayout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 1000
"""Records that are tokenized in one call."""

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class IntakeOptions:
    """What holds for all data sets of a run.

    Attributes:
        tokenizer: The model's tokenizer.
        layout: The keys beside `datasets:` that decide how records are laid out.
        excess: `excess_length_strategy`.
        num_workers: Processes that tokenize; None = as many as there are cores.
        on_progress: Called with what is done, how many records are through, and of how many.
        allow_code: Whether a user's strategy file may be run; None allows all.
    """

    tokenizer: PreTrainedTokenizerBase
    layout: StrategyOptions
    excess: Excess
    num_workers: int | None = None
    on_progress: Progress | None = None
    allow_code: AllowCode | None = None


class Intake:
    """Takes in one data set; `report` and `layout` say what came of it."""

    def __init__(
        self,
        spec: DatasetSpec,
        base_dir: Path,
        options: IntakeOptions,
        *,
        is_heldout: bool = False,
        streams: bool = False,
    ) -> None:
        """Finds the data set and its strategy.

        Args:
            spec: The entry of `datasets:`.
            base_dir: The YAML's folder.
            options: What holds for all data sets.
            is_heldout: It comes from `test_datasets:`.
            streams: Its records are read as they come, and nothing is kept on the disk.

        Raises:
            UserError: One of them is not there.
        """
        self._spec = spec
        self._options = options
        self._resolved = resolve_strategy(
            spec, base_dir, options.tokenizer, options.layout, options.allow_code
        )
        self._source = read_records(spec, base_dir, streams=streams)
        self.recipe = Recipe(spec, self._resolved.source, options.layout, options.excess)
        self.tokenizer = ChunkTokenizer(self.recipe, options.tokenizer, self._resolved.strategy)
        self.layout: PromptLayout | None = None
        self.report = DatasetReport(
            path=spec.path,
            type=type_name(spec),
            is_heldout=is_heldout,
            notes=[
                *self._source.notes,
                *_layout_notes(spec, options.tokenizer),
                *_weight_notes(spec),
            ],
            strategy=_strategy_identity(self._resolved),
        )

    @property
    def strategy(self) -> Strategy:
        """What lays out its records."""
        return self._resolved.strategy

    def chunks(self, size: int = CHUNK) -> Iterator[Chunk]:
        """The data set's records, in order, at most so many in each chunk."""
        return iter(self._source.chunks(size))

    def absorb(self, chunk: TokenizedChunk) -> None:
        """Takes a chunk into the account."""
        self.report.absorb(chunk.report)
        if self.layout is None and chunk.sample is not None:
            self.layout = prompt_layout(
                self._spec,
                self._resolved,
                self._options.layout,
                self._options.tokenizer,
                chunk.sample,
            )
        if self._options.on_progress is not None:
            phase = f"tokenizing {self._spec.path}"
            self._options.on_progress(phase, self.report.num_read, self._source.num_records)

    def finish(self) -> None:
        """Notes what the user should know of the whole."""
        report = self.report
        if report.num_lost_rows:
            report.notes.append(f"left out: {count(report.num_lost_rows, 'row')} of a single token")
        if report.num_without_end:
            report.notes.append(self._end_token_note())
        if report.num_with_control_tokens:
            report.notes.append(_control_token_note(report))
        if report.first_unsteady:
            report.notes.append(
                f"the strategy makes something else of the same record the second time (first "
                f"{report.first_unsteady}): what is cached counts, and without it no run resumes"
            )

    def _end_token_note(self) -> str:
        report = self.report
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
        return note


def _control_token_note(report: DatasetReport) -> str:
    records = count(report.num_with_control_tokens, "record")
    return (
        f"control tokens spelled in the text of {records} (first {report.first_control_token}): "
        "the tokenizer reads them as such, so a text may end its turn"
    )


def take_in(
    intakes: Sequence[Intake], options: IntakeOptions, builder: TokenStoreBuilder
) -> list[int]:
    """Adds the rows of data sets to `builder`, in order; their accounts are complete then.

    Returns:
        How many rows each of them has there, those that can't be used included.

    Raises:
        UserError: A file can't be read, or a record is too long and may not be.
        MachineError: A worker died.
    """
    tokenized = tokenize_jobs(
        _jobs(intakes),
        [intake.tokenizer for intake in intakes],
        recipes=[intake.recipe for intake in intakes],
        tokenizer=options.tokenizer,
        num_workers=options.num_workers,
    )
    num_rows_of = [0] * len(intakes)
    with closing(tokenized):  # whatever happens here, its workers end
        for number, chunk in tokenized:
            builder.append(chunk.rows)
            num_rows_of[number] += len(chunk.rows.lengths)
            intakes[number].absorb(chunk)
    for intake in intakes:
        intake.finish()
    return num_rows_of


def _jobs(intakes: Sequence[Intake]) -> Iterator[Job]:
    return ((number, chunk) for number, each in enumerate(intakes) for chunk in each.chunks())


def _layout_notes(spec: DatasetSpec, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    layout = spec.type
    if not isinstance(layout, MappingLayout):
        return []
    notes = [note_on_end_token(layout, tokenizer.eos_token)]
    given = layout.model_fields_set
    if "format" in given and "no_input_format" not in given and "{input}" not in layout.format:
        notes.append(
            f"records with an empty {layout.field_input!r} are laid out by no_input_format "
            f"({layout.no_input_format!r}), not by format"
        )
    return [note for note in notes if note is not None]


def _weight_notes(spec: DatasetSpec) -> list[str]:
    if spec.field_weight is None:
        return []
    return [
        f"each record counts by its field {spec.field_weight!r}, and the loss is a mean over that"
    ]


def type_name(spec: DatasetSpec) -> str:
    """What a data set's `type:` is called in accounts of it."""
    if spec.type is None:
        return "pre-tokenized"
    return spec.type if isinstance(spec.type, str) else "mapping"


def _strategy_identity(resolved: ResolvedStrategy) -> dict[str, str] | None:
    source = resolved.source
    return None if source is None else {"path": source.path, "sha256": source.sha256}

"""What the model will see, worked out without it: `ft preview`.

    records --SourceReader--> a few of them, as text          the way in, nothing left out
    records --prepare-------> rows, what was lost, and why    just what `ft train` trains on
                              `-> lengths, duplicates, packs, steps

No torch, no weights: a tokenizer is all it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from ft.data.account import Account, read_accounts
from ft.data.classification.targets import target_in_words
from ft.data.excerpt import Span, Token, spans_of, tokens_of
from ft.data.feed import TrainingData
from ft.data.intake import Progress, type_name
from ft.data.obtain import TokenCache
from ft.data.packing import pack
from ft.data.records import Origin
from ft.data.segments import IGNORE_INDEX, Tokens
from ft.data.source_rows import SourceRows, source_readers
from ft.data.steps import plan_steps
from ft.data.stream import prepare_training_data
from ft.data.template_check import foreign_templates
from ft.runtime.errors import Problem, UserError
from ft.spec.classification import Classification
from ft.spec.runspec import DataSpec, TrainingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NUM_ROWS_SHOWN = 2
"""Of a record that is cut into many."""


@dataclass(frozen=True)
class RowPreview:
    """One row of a record.

    Attributes:
        spans: Its text.
        tokens: Its tokens, every one.
        part: Which part of its record it is, in words; empty if it is all of it.
        label: What is to be told of it, by its name; empty where tokens are what is learned.
    """

    spans: tuple[Span, ...]
    tokens: tuple[Token, ...]
    part: str = ""
    label: str = ""

    @property
    def num_trained(self) -> int:
        """Tokens that carry labels."""
        return sum(token.is_trained for token in self.tokens)


@dataclass(frozen=True)
class RecordPreview:
    """One record.

    Attributes:
        origin: Where it is.
        rows: Its first few rows.
        error: Why it can't be laid out; empty if it can.
    """

    origin: Origin
    rows: tuple[RowPreview, ...]
    error: str


@dataclass(frozen=True)
class SetPreview:
    """One data set.

    Attributes:
        path: As the YAML gives it.
        type: As the YAML gives it.
        is_heldout: It comes from `test_datasets:`.
        records: The first few, before anything is left out.
        account: Of all of them; None where nothing at all is left to train on.
    """

    path: str
    type: str
    is_heldout: bool
    records: tuple[RecordPreview, ...]
    account: Account | None


@dataclass(frozen=True)
class StepsPreview:
    """What a run comes to, in one process.

    Attributes:
        num_rows: To train on.
        num_heldout: Held out.
        rows_per_step: Rows, or packs, in an optimizer step.
        steps_per_epoch: Optimizer steps; None for a stream, of which only the head was read.
        num_steps: Of the whole run.
        num_packs: Packs that the rows go into, if they are packed; None where they can't be.
        packing_efficiency: Share of the packs' room that holds tokens.
        is_packed: `sample_packing` is on.
    """

    num_rows: int
    num_heldout: int
    rows_per_step: int
    steps_per_epoch: int | None
    num_steps: int
    num_packs: int | None
    packing_efficiency: float
    is_packed: bool


@dataclass(frozen=True)
class DataPreview:
    """All that `ft preview` shows.

    Attributes:
        sets: One a data set, `test_datasets` last.
        sequence_len: Longest row, in tokens.
        steps: None where there is nothing to train on, or nothing that is trained yet.
        warnings: What the user's own keys do that is easy to overlook.
        problems: Why `ft train` would refuse; empty if it wouldn't.
        tells_labels: Labels are learned, not tokens.
    """

    sets: tuple[SetPreview, ...]
    sequence_len: int
    steps: StepsPreview | None
    warnings: tuple[str, ...]
    problems: tuple[Problem, ...]
    tells_labels: bool = False


def preview_data(
    data: DataSpec,
    training: TrainingSpec,
    *,
    tokenizer: PreTrainedTokenizerBase,
    base_dir: Path,
    num_records: int = 3,
    on_progress: Progress | None = None,
    cache: TokenCache | None = None,
) -> DataPreview:
    """Reads all of a run's data (of a stream its head) and says what it comes to.

    Args:
        data: The run's data section.
        training: How rows become steps.
        tokenizer: The model's tokenizer.
        base_dir: The YAML's folder.
        num_records: Records to show of each data set.
        on_progress: Called with what is done, how many records are through, and of how many.
        cache: Where tokens are kept, so that `ft train` finds them.

    Raises:
        UserError: A data set or a layout is not there. What is wrong with the records themselves
            is in `problems`.
    """
    readers = list(source_readers(data, base_dir, tokenizer))
    heads = [list(islice(reader.read(num_records), num_records)) for reader in readers]

    def prepare(spec: DataSpec, *, is_strict: bool) -> TrainingData:
        return prepare_training_data(
            spec, tokenizer=tokenizer, seed=training.seed, base_dir=base_dir,
            on_progress=on_progress, cache=cache, is_strict=is_strict,
        )  # fmt: skip

    prepared, problems = _prepare(data, prepare)
    accounts = read_accounts(prepared, readers, data.sequence_len) if prepared else []
    records = [
        tuple(_show(record, tokenizer, reader.task) for record in head)
        for reader, head in zip(readers, heads, strict=True)
    ]
    return DataPreview(
        tuple(_sets(data, records, accounts)),
        data.sequence_len,
        _steps(prepared, data, training) if prepared else None,
        tuple(foreign_templates((reader.entry, reader.strategy) for reader in readers)),
        tuple(problems),
        data.is_classification,
    )


def _sets(
    data: DataSpec,
    records: Sequence[tuple[RecordPreview, ...]],
    accounts: Sequence[Account],
) -> Iterator[SetPreview]:
    entries = (*data.datasets, *data.test_datasets)
    for index, (entry, shown, account) in enumerate(zip_longest(entries, records, accounts)):
        is_heldout = index >= len(data.datasets)
        yield SetPreview(entry.path, type_name(entry), is_heldout, shown, account)


def _prepare(
    data: DataSpec, prepare: Callable[..., TrainingData]
) -> tuple[TrainingData | None, Sequence[Problem]]:
    """The rows as a run would have them, and why a run would refuse them.

    Data that a run refuses is prepared once more without its limits, so that there is something to
    show; even then there may be nothing.
    """
    try:
        return prepare(data, is_strict=True), ()
    except UserError as error:
        problems = error.problems
    raises = data.excess_length_strategy == "raise"
    lenient = data.model_copy(update={"excess_length_strategy": None}) if raises else data
    try:
        return prepare(lenient, is_strict=False), problems
    except UserError:
        return None, problems


# -- records as text --------------------------------------------------------------------------


def _show(
    record: SourceRows, tokenizer: PreTrainedTokenizerBase, task: Classification | None
) -> RecordPreview:
    num_rows = len(record.rows)
    rows = tuple(
        _show_row(row, f"row {number} of {num_rows:,}" if num_rows > 1 else "", tokenizer, task)
        for number, row in enumerate(record.rows[:NUM_ROWS_SHOWN], start=1)
    )
    return RecordPreview(record.origin, rows, record.error)


def _show_row(
    row: Tokens, part: str, tokenizer: PreTrainedTokenizerBase, task: Classification | None
) -> RowPreview:
    label = ""
    if task is not None:  # the numbers in place of labels belong to no token
        label = target_in_words(row.labels, task)
        row = Tokens(row.input_ids, [IGNORE_INDEX] * len(row.input_ids))
    return RowPreview(spans_of(row, tokenizer), tokens_of(row, tokenizer), part, label)


def _steps(prepared: TrainingData, data: DataSpec, training: TrainingSpec) -> StepsPreview:
    lengths = prepared.samples.lengths
    plan = plan_steps(lengths, training, sequence_len=data.sequence_len)
    packing = None
    if not data.is_classification:
        packing = plan.packing or pack(lengths, data.sequence_len)
    return StepsPreview(
        num_rows=len(prepared.samples),
        num_heldout=len(prepared.heldout or ()),
        rows_per_step=plan.rows_per_step,
        steps_per_epoch=None if data.streaming else plan.steps_per_epoch,
        num_steps=training.max_steps or math.ceil(training.num_epochs * plan.steps_per_epoch),
        num_packs=packing.num_packs if packing else None,
        packing_efficiency=packing.efficiency if packing else 0.0,
        is_packed=plan.packing is not None,
    )

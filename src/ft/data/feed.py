"""What the loop trains on, step by step: rows of records, wherever they come from.

StoredFeed    records that are all tokenized already; any step at any time
StreamFeed    records that are tokenized as they are read (stream.py); one step after another
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ft.data.steps import StepPlan

if TYPE_CHECKING:
    from pathlib import Path

    from ft.data.batches import TokenRow
    from ft.data.prompt import PromptLayout
    from ft.data.report import DataReport
    from ft.data.tokenized import TokenizedSet
    from ft.spec.runspec import TrainingSpec

FeedRow = Sequence["TokenRow"]
"""The records of one row of a batch: one, or those of a pack."""


class Feed(Protocol):
    """The rows of each optimizer step, and where an epoch ends."""

    @property
    def micro_batch_size(self) -> int:
        """Rows in one forward pass of one process."""

    @property
    def num_processes(self) -> int:
        """Those that share the rows of a step."""

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps in one pass over the data; None where nobody can know."""

    def rows_of(self, step: int) -> Sequence[FeedRow]:
        """The rows of an optimizer step (counted from 0 over all epochs), over all processes."""

    def epochs_after(self, step: int) -> float:
        """Passes over the data that are behind so many steps."""

    def position(self) -> dict[str, Any] | None:
        """What `go_to` needs, as JSON can hold it; None if a step's number tells everything."""

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Puts it where it was when `position` was asked for."""

    def figures(self) -> dict[str, Any]:
        """What a step and an epoch hold, for the run's start event."""

    def close(self) -> None:
        """Ends what works for it."""


class TrainingData(Protocol):
    """A run's data, whichever way they are read."""

    @property
    def layouts(self) -> tuple[PromptLayout, ...]:
        """The prompt layout of each of `datasets:`, each once."""

    @property
    def heldout(self) -> TokenizedSet | None:
        """Examples to measure on."""

    @property
    def report(self) -> DataReport:
        """What became of the records that were read before the first step."""

    @property
    def entries(self) -> tuple[Path, ...]:
        """Folders of the tokenized cache in which they are kept."""

    @property
    def in_order(self) -> tuple[TokenizedSet, ...]:
        """The rows that are known, those of one data set behind those of the other."""

    @property
    def samples(self) -> TokenizedSet:
        """Some of what is trained on."""

    @property
    def num_train_records(self) -> int | None:
        """Rows to train on; None where nobody can know."""

    def fingerprint(self) -> str:
        """Data of equal fingerprints train alike."""

    def feed(self, training: TrainingSpec, *, sequence_len: int, num_processes: int) -> Feed:
        """The rows of each step."""


@dataclass(frozen=True, eq=False)
class StoredFeed:
    """Examples that are all there, by the numbers that a plan gives them."""

    examples: TokenizedSet
    plan: StepPlan

    @property
    def micro_batch_size(self) -> int:
        """Rows in one forward pass of one process."""
        return self.plan.micro_batch_size

    @property
    def num_processes(self) -> int:
        """Those that share the rows of a step."""
        return self.plan.num_processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        return self.plan.steps_per_epoch

    def rows_of(self, step: int) -> list[FeedRow]:
        """The rows of an optimizer step."""
        return [[self.examples[i] for i in row] for row in self.plan.rows_of(step)]

    def epochs_after(self, step: int) -> float:
        """Steps as a share of an epoch's."""
        return step / self.plan.steps_per_epoch

    def position(self) -> None:
        """None: a step's number tells everything."""

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Not needed."""

    def figures(self) -> dict[str, Any]:
        """Sizes of a step and an epoch, and how full the packs are."""
        plan = self.plan
        return {
            "steps_per_epoch": plan.steps_per_epoch,
            "rows_per_step": plan.rows_per_step,
            "records_per_step": round(
                plan.num_records * plan.rows_per_step / plan.grouping.num_rows
            ),
            "packing": None if plan.packing is None else plan.packing.to_json(),
            "num_train_records": plan.num_records,
        }

    def close(self) -> None:
        """Nothing works for it."""

"""Which records each optimizer step trains on, and what shares a row of a batch.

    records  -- a way of grouping -->  rows of an epoch, in order  -- StepPlan -->  rows of a step

    Shuffled          a row is a record; any order
    InOrder           a row is a record; as they were read
    GroupedByLength   a row is a record; those of a step have similar lengths
    Packed            a row is a pack: several records in the room of ``sequence_len`` tokens

An epoch's rows follow from (seed, epoch) alone, so a resumed run needs no state of a sampler; and
the rows of a step depend neither on how it is cut into passes nor on who makes them. No torch here:
`ft preview` counts steps with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ft.data.packing import LongArray, Packing, pack
from ft.spec.runspec import TrainingSpec

Row = tuple[int, ...]
"""Record numbers of one row of a batch."""

STEPS_IN_MEGABATCH = 50
"""Steps' worth of records that are sorted together: more is more alike, less is more random."""


@dataclass(frozen=True, eq=False)
class EpochRows:
    """An epoch's rows, in the order in which they are trained on.

    Attributes:
        records: int64 [N], record numbers, row after row.
        offsets: int64 [num_rows + 1], where each row begins, and the end.
    """

    records: LongArray
    offsets: LongArray

    def rows(self, start: int, stop: int) -> list[Row]:
        """Some of them; fewer at the end."""
        bounds = self.offsets[start : stop + 1].tolist()
        return [tuple(self.records[begin:end].tolist()) for begin, end in pairwise(bounds)]


class Grouping(Protocol):
    """One way to make rows of records."""

    @property
    def num_rows(self) -> int:
        """Rows in an epoch; the same in each."""
        ...

    def epoch(self, epoch: int) -> EpochRows:
        """An epoch's rows; each record is in one of them."""
        ...


@dataclass(frozen=True)
class Shuffled:
    """Every record by itself, in random order."""

    num_rows: int
    seed: int

    def epoch(self, epoch: int) -> EpochRows:
        """A permutation of the records."""
        return _by_themselves(_generator(self.seed, epoch).permutation(self.num_rows))


@dataclass(frozen=True)
class InOrder:
    """Every record by itself, as they come."""

    num_rows: int

    def epoch(self, epoch: int) -> EpochRows:
        """The records from first to last."""
        return _by_themselves(np.arange(self.num_rows))


@dataclass(frozen=True, eq=False)
class GroupedByLength:
    """Every record by itself; the records of a step have similar lengths.

    Random megabatches of many steps are sorted by length and cut into steps, and the steps then
    drawn in random order; the one with the longest record goes first, so that memory peaks at once.
    """

    lengths: LongArray
    rows_per_step: int
    seed: int

    @property
    def num_rows(self) -> int:
        """One a record."""
        return len(self.lengths)

    def epoch(self, epoch: int) -> EpochRows:
        """Whole steps first; what is left over is the last step."""
        generator = _generator(self.seed, epoch)
        shuffled = generator.permutation(self.num_rows)
        num_whole = self.num_rows // self.rows_per_step
        num_steps_sorted = min(max(num_whole // 4, 1), STEPS_IN_MEGABATCH)
        megabatch = np.arange(self.num_rows) // (num_steps_sorted * self.rows_per_step)
        grouped = shuffled[np.lexsort((-self.lengths[shuffled], megabatch))]
        whole, rest = np.split(grouped, [num_whole * self.rows_per_step])
        steps = generator.permutation(whole.reshape(num_whole, self.rows_per_step))
        if num_whole:
            longest = int(self.lengths[steps].max(axis=1).argmax())
            steps[[0, longest]] = steps[[longest, 0]]
        return _by_themselves(np.concatenate([steps.ravel(), rest]))


@dataclass(frozen=True, eq=False)
class Packed:
    """Packs of records, in random order."""

    packing: Packing
    seed: int

    @property
    def num_rows(self) -> int:
        """One a pack."""
        return self.packing.num_packs

    def epoch(self, epoch: int) -> EpochRows:
        """The packs, filled anew."""
        return EpochRows(*self.packing.fill(_generator(self.seed, epoch)))


class StepPlan:
    """Which rows each optimizer step trains on, and who gets which of them."""

    def __init__(
        self,
        grouping: Grouping,
        lengths: LongArray,
        *,
        micro_batch_size: int,
        gradient_accumulation_steps: int,
        num_processes: int,
    ) -> None:
        """Args: how records become rows; tokens of each record; and the sizes of a step."""
        self.grouping = grouping
        self.lengths = lengths
        self.micro_batch_size = micro_batch_size
        self.num_processes = num_processes
        self.rows_per_step = micro_batch_size * gradient_accumulation_steps * num_processes
        """Rows in an optimizer step, over all processes; an epoch's last step may have fewer."""
        self._drawn: tuple[int, EpochRows] | None = None

    @property
    def num_records(self) -> int:
        """Records in an epoch."""
        return len(self.lengths)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        return math.ceil(self.grouping.num_rows / self.rows_per_step)

    @property
    def packing(self) -> Packing | None:
        """How records are packed, if they are."""
        return self.grouping.packing if isinstance(self.grouping, Packed) else None

    def rows_of(self, step: int) -> list[Row]:
        """The rows of an optimizer step (counted from 0 over all epochs), in order."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        start = step_in_epoch * self.rows_per_step
        stop = min(start + self.rows_per_step, self.grouping.num_rows)
        return self._epoch(epoch).rows(start, stop)

    def num_tokens(self, row: Row) -> int:
        """Tokens of a row's records."""
        return int(self.lengths[list(row)].sum())

    def _epoch(self, epoch: int) -> EpochRows:
        """Drawn once an epoch: a million records take a moment."""
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, self.grouping.epoch(epoch)
        return self._drawn[1]


def plan_steps(
    lengths: npt.ArrayLike, training: TrainingSpec, *, sequence_len: int, num_processes: int = 1
) -> StepPlan:
    """The plan that a run's spec asks for.

    Args:
        lengths: Tokens of each record to train on.
        training: Sizes of a step, the seed, and how records are grouped.
        sequence_len: Room of a pack, in tokens.
        num_processes: Those that train together.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    sizes = {
        "micro_batch_size": training.micro_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "num_processes": num_processes,
    }
    rows_per_step = math.prod(sizes.values())
    grouping = group(tokens, training, sequence_len=sequence_len, rows_per_step=rows_per_step)
    return StepPlan(grouping, tokens, **sizes)


def group(
    lengths: LongArray, training: TrainingSpec, *, sequence_len: int, rows_per_step: int
) -> Grouping:
    """The way to make rows of records that a run's spec asks for.

    Args:
        lengths: Tokens of each record.
        training: The seed, and how records are grouped.
        sequence_len: Room of a pack, in tokens.
        rows_per_step: Rows in an optimizer step, over all processes.
    """
    if training.sample_packing:
        return Packed(pack(lengths, sequence_len), training.seed)
    if training.group_by_length:
        return GroupedByLength(lengths, rows_per_step, training.seed)
    return Shuffled(len(lengths), training.seed)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])


def _by_themselves(records: LongArray) -> EpochRows:
    return EpochRows(records, np.arange(len(records) + 1))

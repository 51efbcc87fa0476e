"""What an optimizer step needs of the data: its rows, dealt out and cut into forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator

from ft.data.batches import Batch, TokenRow, join
from ft.data.feed import Feed, FeedRow
from ft.data.segments import IGNORE_INDEX
from ft.evaluate.objective import Objective


@dataclass(frozen=True)
class StepWork:
    """A step's forward passes in this process, on the host, and what all processes train on."""

    batches: list[Batch]
    records: list[TokenRow]
    num_trained: float
    num_tokens: int


class WorkMaker:
    """Makes the work of each step."""

    def __init__(self, feed: Feed, objective: Objective, accelerator: Accelerator) -> None:
        self._feed = feed
        self.objective = objective
        """What is minimized, in passes of its layout; the loop has it from here alone, so that
        another plan can exchange it before the first step."""
        self._process_index: int = accelerator.process_index
        self._pins_memory = accelerator.device.type == "cuda"

    def make(self, step: int) -> StepWork:
        """The work of a step, counted from 0."""
        rows = self._feed.rows_of(step)
        records = [record for row in rows for record in row]
        batches = [self.batch(own, filler=rows[0]) for own in self._micro_batches(rows)]
        if self._pins_memory:
            batches = [batch.pinned() for batch in batches]
        num_trained = sum(map(self.objective.weight, records))
        return StepWork(batches, records, num_trained, sum(map(_num_tokens, rows)))

    def batch(self, rows: Sequence[FeedRow], filler: FeedRow) -> Batch:
        """The micro-batch; an empty one repeats a row with every target ignored."""
        joined = [join(row) for row in rows or [filler]]
        batch = self.objective.layout.batch(joined)
        if not rows:
            batch = replace(batch, targets=torch.full_like(batch.targets, IGNORE_INDEX))
        return batch

    def _micro_batches(self, rows: Sequence[FeedRow]) -> list[list[FeedRow]]:
        """This process's forward passes of the step; the rows are dealt out in turn.

        Every process makes the same number of passes, as collective operations need; one that has
        fewer makes empty ones.
        """
        cuts = []
        for process_index in range(self._feed.num_processes):
            share = rows[process_index :: self._feed.num_processes]
            lengths = [_num_tokens(row) for row in share]
            cut = self.objective.layout.cut(lengths, self._feed.micro_batch_size)
            cuts.append([[share[position] for position in batch] for batch in cut])
        own = cuts[self._process_index]
        return own + [[]] * (max(map(len, cuts)) - len(own))


def _num_tokens(row: FeedRow) -> int:
    return sum(len(record.input_ids) for record in row)

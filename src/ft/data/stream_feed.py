"""The rows of each step, out of a stream's windows.

A window's rows are shuffled, grouped by length or packed just as an epoch of a small set would be,
so that a set which fits into one window trains as if it were no stream. A step never mixes two
passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ft.data.feed import FeedRow
from ft.data.steps import EpochRows, Grouping, InOrder, group
from ft.data.tokenized import TokenizedSet
from ft.data.windows import Place, TokenStream, Window
from ft.spec.runspec import TrainingSpec


class StreamFeed:
    """Rows of a stream, one step after the other."""

    steps_per_epoch = None
    """Nobody knows."""

    def __init__(
        self,
        stream: TokenStream,
        training: TrainingSpec,
        *,
        sequence_len: int,
        num_processes: int,
        is_shuffled: bool,
    ) -> None:
        """Args: the records; the sizes of a step and how rows are made; are they shuffled?"""
        self.micro_batch_size = training.micro_batch_size
        self.num_processes = num_processes
        self.rows_per_step = (
            training.micro_batch_size * training.gradient_accumulation_steps * num_processes
        )
        self._stream = stream
        self._training = training
        self._sequence_len = sequence_len
        self._is_shuffled = is_shuffled
        self._step = 0
        self._windows = stream.windows(stream.start)
        self._window: Window | None = None
        self._order: EpochRows | None = None
        self._num_given = 0
        self._num_passes = 0

    def rows_of(self, step: int) -> list[FeedRow]:
        """The rows of the next step; the last one of a pass may have fewer.

        Raises:
            UserError: Too many records can't be used, or none can.
            MachineError: A worker died.
        """
        if step != self._step:
            raise ValueError(f"a stream is read in order: next is step {self._step}, not {step}")
        rows: list[FeedRow] = []
        while len(rows) < self.rows_per_step:
            rows += self._take(self.rows_per_step - len(rows))
            if len(rows) < self.rows_per_step:
                window = self._open_next()
                if rows and window.place.num_passes != self._num_passes:
                    break
        self._step += 1
        return rows

    def epochs_after(self, step: int) -> float:
        """Whole passes before that of the last row; how much of that is done, nobody knows."""
        return self._num_passes

    def position(self) -> dict[str, Any] | None:
        """The place of the window, and how many of its rows are given out."""
        if self._window is None:
            return None
        place = self._window.place
        return {**vars(place), "step": self._step, "num_given": self._num_given}

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Reads the window again; the records before it are skipped."""
        own = {field.name: position[field.name] for field in fields(Place)}
        self.close()
        self._windows = self._stream.windows(Place(**own))
        self._open_next()
        self._num_given, self._step = position["num_given"], position["step"]

    def figures(self) -> dict[str, Any]:
        """What is known beforehand."""
        return {
            "steps_per_epoch": None,
            "rows_per_step": self.rows_per_step,
            "records_per_step": None,
            "packing": None,
            "num_train_records": None,
            "window_size": self._stream.num_chunks * self._stream.chunk_size,
        }

    def close(self) -> None:
        """Ends the workers."""
        self._windows.close()

    def _take(self, num_rows: int) -> list[FeedRow]:
        """The window's next rows, up to so many."""
        if self._window is None or self._order is None:
            return []
        self._num_passes = self._window.place.num_passes
        numbers = self._order.rows(self._num_given, self._num_given + num_rows)
        self._num_given += len(numbers)
        return [[self._window.rows[i] for i in row] for row in numbers]

    def _open_next(self) -> Window:
        self._window = None  # so that there are never two of them
        self._window = next(self._windows)
        self._order = self._grouping(self._window.rows).epoch(self._window.place.window)
        self._num_given = 0
        return self._window

    def _grouping(self, rows: TokenizedSet) -> Grouping:
        training = self._training
        is_drawn = training.sample_packing or training.group_by_length
        if not self._is_shuffled and not is_drawn:
            return InOrder(len(rows))
        return group(
            rows.lengths,
            training,
            sequence_len=self._sequence_len,
            rows_per_step=self.rows_per_step,
        )

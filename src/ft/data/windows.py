"""A stream's records, tokenized a window at a time: memory stays flat however many there are.

pass 1: | window 0 | window 1 | window 2 |    pass 2: | window 3 | window 4 | window 5 |    ...
        each some thousand consecutive records; the last one of a pass may be shorter

A place is a few counters. Going on from one skips the records before it without decoding them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from ft.data.intake import Intake
from ft.data.mixture import Mixture
from ft.data.prepare import check_drops, nothing_to_train_on, usable_rows
from ft.data.report import DatasetReport, count
from ft.data.store_builder import TokenStoreBuilder
from ft.data.tokenized import TokenizedSet
from ft.data.workers import Job, default_workers, tokenize_jobs
from ft.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ft.data.chunk_tokenizer import TokenizedChunk

ENOUGH = 1000
"""So many records tell whether data are bad."""

OnNews = Callable[[Sequence[str]], None]
"""Told, in lines for the user, when a pass over the data ends."""


@dataclass(frozen=True)
class Place:
    """Where a window begins.

    Attributes:
        window: Windows before it, over all passes.
        num_passes: Passes that are behind it.
        dataset: The data set of its first record.
        chunk: Chunks of that data set that are read; of interleaved ones, of all of them.
        reports: The accounts so far, one a data set.
    """

    window: int
    num_passes: int
    dataset: int
    chunk: int
    reports: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive records of one pass, tokenized; there is at least one row."""

    place: Place
    rows: TokenizedSet


@dataclass(frozen=True, eq=False)
class TokenStream:
    """The records of some data sets, pass after pass, as windows of rows.

    Attributes:
        intakes: The data sets.
        tokenizer: The model's tokenizer.
        start: The place before anything is read.
        num_chunks: Chunks in a window; a data set's last one may be shorter.
        chunk_size: Records in a chunk.
        max_drop: Share of the records that may be lost.
        on_news: Told when a pass ends.
        num_workers: Processes that tokenize; None = as many as there are cores.
        mixture: How the data sets are interleaved; None = they are read one behind the other.
    """

    intakes: Sequence[Intake]
    tokenizer: PreTrainedTokenizerBase
    start: Place
    num_chunks: int
    chunk_size: int
    max_drop: float
    on_news: OnNews
    num_workers: int | None
    mixture: Mixture | None = None

    def shared_by(self, num_processes: int) -> TokenStream:
        """The same, with a fair share of the machine's cores."""
        workers = self.num_workers or max(default_workers() // num_processes, 1)
        return replace(self, num_workers=workers)

    def windows(self, place: Place) -> Generator[Window, None, None]:
        """All windows from a place on, without end; closing it ends the workers.

        Raises:
            UserError: Too many records can't be used, or none can.
            MachineError: A worker died.
        """
        for intake, report in zip(self.intakes, place.reports, strict=True):
            intake.report = DatasetReport.from_plain(report)
        while True:
            place = yield from self._pass(place)
            reports = self._reports()
            if not any(report.num_rows for report in reports):
                raise UserError(nothing_to_train_on(reports))
            check_drops(reports, self.max_drop)
            self._tell_end(place.num_passes, reports)

    def _pass(self, place: Place) -> Generator[Window, None, Place]:
        """The windows of what is left of a pass; gives the place where the next one begins."""
        chunks = tokenize_jobs(
            self._jobs(place),
            [intake.tokenizer for intake in self.intakes],
            recipes=[intake.recipe for intake in self.intakes],
            tokenizer=self.tokenizer,
            num_workers=self.num_workers,
        )
        with closing(chunks):
            while some := list(islice(chunks, self.num_chunks)):
                rows = self._take_in(some)
                if len(rows):
                    yield Window(place, rows)
                place = self._behind(place, [number for number, _ in some])
        return replace(place, num_passes=place.num_passes + 1, dataset=0, chunk=0)

    def _jobs(self, place: Place) -> Iterator[Job]:
        if self.mixture is not None:
            drawn = self.mixture.jobs(self.intakes, self.chunk_size, place.num_passes)
            yield from islice(drawn, place.chunk, None)
            return
        for number, intake in enumerate(self.intakes[place.dataset :], start=place.dataset):
            num_read = place.chunk if number == place.dataset else 0
            for chunk in islice(intake.chunks(self.chunk_size), num_read, None):
                yield number, chunk

    def _take_in(self, chunks: Sequence[tuple[int, TokenizedChunk]]) -> TokenizedSet:
        builder = TokenStoreBuilder()
        for number, chunk in chunks:
            builder.append(chunk.rows)
            self.intakes[number].absorb(chunk)
        reports = self._reports()
        if sum(report.num_read for report in reports) >= ENOUGH:
            check_drops(reports, self.max_drop)
        return usable_rows(builder.build(), None)

    def _behind(self, place: Place, numbers: Sequence[int]) -> Place:
        """The place behind a window that began at another one."""
        last = numbers[-1] if self.mixture is None else place.dataset
        num_read = len(numbers) if self.mixture is not None else numbers.count(last)
        num_before = place.chunk if last == place.dataset else 0
        return Place(
            place.window + 1,
            place.num_passes,
            last,
            num_before + num_read,
            [report.to_plain() for report in self._reports()],
        )

    def _reports(self) -> list[DatasetReport]:
        return [intake.report for intake in self.intakes]

    def _tell_end(self, num_passes: int, reports: Sequence[DatasetReport]) -> None:
        passes = "once" if num_passes == 1 else f"{num_passes} times"
        num_read = count(sum(report.num_read for report in reports) // num_passes, "record")
        head = f"the stream has ended: all {num_read} were read {passes}; it begins again"
        self.on_news([head, *(line for report in reports for line in report.render())])

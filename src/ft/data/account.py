"""What became of a data set, looked at row by row: lengths, repetitions, records that were cut."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from ft.data.feed import TrainingData
from ft.data.lengths import LengthSummary, summarize_lengths
from ft.data.records import Origin
from ft.data.report import DatasetReport
from ft.data.source_rows import SourceReader
from ft.data.tokenized import Example

NUM_TRUNCATED_SHOWN = 3


@dataclass(frozen=True)
class Duplicates:
    """Rows that stand before them, too, token by token.

    Attributes:
        num_rows: How many.
        num_in_training: Of a held-out set: how many of them are trained on.
        pair: The first of them, and the row that it repeats.
    """

    num_rows: int
    num_in_training: int
    pair: tuple[Origin, Origin] | None


@dataclass(frozen=True)
class Account:
    """What became of a data set.

    Attributes:
        report: Records read, kept, cut and lost.
        lengths: Of the rows that are used; None if there are none.
        duplicates: Among the rows that are used, or with those of data sets before.
        truncated: Some records that lost their end: where they are, and how many tokens they had.
    """

    report: DatasetReport
    lengths: LengthSummary | None
    duplicates: Duplicates
    truncated: tuple[tuple[Origin, int], ...]


def read_accounts(
    prepared: TrainingData, readers: Sequence[SourceReader], sequence_len: int
) -> list[Account]:
    """One a data set.

    Args:
        prepared: The rows.
        readers: The data sets, in the order of their reports.
        sequence_len: Longest row, in tokens.
    """
    rows = chain(*prepared.in_order)
    scan = Scan()
    accounts = []
    for report, reader in zip(prepared.report.datasets, readers, strict=True):
        of_set = map(_scanned, islice(rows, report.num_rows))
        lengths, duplicates = scan.read(of_set, report.is_heldout)
        cut = _truncated(reader, sequence_len) if report.num_truncated else ()
        accounts.append(Account(report, summarize_lengths(lengths), duplicates, tuple(cut)))
    return accounts


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """What a scan needs to know of a row.

    Attributes:
        content: Rows of equal content are repetitions.
        num_tokens: How long it is.
        origin: Where it came from.
    """

    content: bytes
    num_tokens: int
    origin: Origin


class Scan:
    """Looks at every row once, and remembers those that it saw by their hash."""

    def __init__(self) -> None:
        """Begins with nothing seen."""
        self._seen: dict[bytes, tuple[Origin, bool]] = {}

    def read(self, rows: Iterable[ScannedRow], is_heldout: bool) -> tuple[list[int], Duplicates]:
        """Lengths of a data set's rows, and which of them were seen before."""
        lengths, num_duplicates, num_in_training, pair = [], 0, 0, None
        for row in rows:
            lengths.append(row.num_tokens)
            key = hashlib.blake2b(row.content, digest_size=16).digest()
            origin, was_heldout = self._seen.setdefault(key, (row.origin, is_heldout))
            if origin is row.origin:
                continue
            num_duplicates += 1
            num_in_training += is_heldout and not was_heldout
            pair = pair or (row.origin, origin)
        return lengths, Duplicates(num_duplicates, num_in_training, pair)


def _scanned(row: Example) -> ScannedRow:
    return ScannedRow(row.input_ids.tobytes(), len(row.input_ids), row.origin)


def _truncated(reader: SourceReader, sequence_len: int) -> Iterable[tuple[Origin, int]]:
    """The first few records that lost their end: to the layout, or to `sequence_len`."""
    found = (
        (record.origin, sum(row.num_wanted for row in record.rows))
        for record in reader.read()
        if any(row.num_wanted > min(len(row.input_ids), sequence_len) for row in record.rows)
    )
    return islice(found, NUM_TRUNCATED_SHOWN)

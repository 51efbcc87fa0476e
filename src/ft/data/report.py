"""What became of the records: how many were read, kept, cut and lost, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from ft.data.records import Origin, Record

NUM_EXAMPLES = 5
"""So many examples of each kind of loss are kept."""

RECORD_WIDTH = 200
"""A record is shown in so many characters."""

LABELS_SHOWN = 20

TOO_LONG = "too long"
TOO_SHORT = "fewer than {} tokens"
"""With the least number put in."""
NOTHING_TRAINED = "nothing trained"


@dataclass(frozen=True, slots=True)
class Drop:
    """A record that is not used.

    Attributes:
        reason: The kind of loss, by which they are counted.
        origin: Where the record is.
        detail: What is wrong with this one.
        record: The record, shortened.
    """

    reason: str
    origin: Origin
    detail: str = ""
    record: str = ""

    @classmethod
    def of(cls, record: Record, reason: str, detail: str = "") -> Drop:
        """The loss of a record that was read."""
        return cls(reason, record.origin, detail, shortened(record))

    def __str__(self) -> str:
        return f"{self.origin}: {self.detail or self.reason}"


def shortened(record: Record) -> str:
    """A record's fields in `RECORD_WIDTH` characters."""
    text = repr(_cut(record.fields))  # of all of a long record it would take twice its memory
    return text if len(text) <= RECORD_WIDTH else text[: RECORD_WIDTH - 3] + "..."


def _cut(value: Any) -> Any:
    """Without what cannot be seen in `RECORD_WIDTH` characters."""
    if isinstance(value, str):
        return value[:RECORD_WIDTH]
    if isinstance(value, list):
        return [_cut(each) for each in value[:RECORD_WIDTH]]
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in islice(value.items(), RECORD_WIDTH)}
    return value


@dataclass
class DropTally:
    """All losses of one kind.

    Attributes:
        is_consented: The YAML asked for it (`excess_length_strategy: drop`).
        count: How many.
        examples: The first few.
    """

    is_consented: bool = False
    count: int = 0
    examples: list[Drop] = field(default_factory=list)


@dataclass
class DatasetReport:
    """One data set's account: `num_read` = `num_kept` + all drops.

    Attributes:
        path: As the YAML gives it.
        type: As the YAML gives it.
        is_heldout: It comes from `test_datasets:`.
        num_read: Records read, broken ones included.
        num_kept: Records used.
        num_truncated: Kept records that lost their end.
        num_rows: Rows made of the kept records; more than those where texts are cut into rows.
        num_lost_rows: Rows of kept records that can't be used: a last row of one token.
        num_tokens: Of the rows.
        num_trained_tokens: Of the rows; a row's first token is never predicted.
        num_without_end: Kept records whose last trained tokens end no turn.
        num_with_control_tokens: Records whose own text spells a control token.
        first_control_token: Which one, and where, of the first of them.
        first_unsteady: Where the first record is of which a user's code made two different things.
        num_of_label: Kept records of each label, where labels are learned.
        longest: Tokens of the longest record that was too long; 0 if none was.
        drops: Kind of loss -> its count and examples.
        notes: What else the user should know.
        strategy: Path and sha256 of the user's strategy file.
    """

    path: str
    type: str
    is_heldout: bool = False
    num_read: int = 0
    num_kept: int = 0
    num_truncated: int = 0
    num_rows: int = 0
    num_lost_rows: int = 0
    num_tokens: int = 0
    num_trained_tokens: int = 0
    num_without_end: int = 0
    num_with_control_tokens: int = 0
    first_control_token: str = ""
    first_unsteady: str = ""
    num_of_label: dict[str, int] = field(default_factory=dict)
    longest: int = 0
    drops: dict[str, DropTally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    strategy: dict[str, str] | None = None

    def drop(self, drop: Drop, *, is_consented: bool = False) -> None:
        """Counts a record that is lost."""
        tally = self.drops.setdefault(drop.reason, DropTally(is_consented))
        tally.count += 1
        if len(tally.examples) < NUM_EXAMPLES:
            tally.examples.append(drop)

    def note_control_token(self, token: str, origin: Origin) -> None:
        """Counts a record whose text spells a control token."""
        self.num_with_control_tokens += 1
        self.first_control_token = self.first_control_token or f"{token} at {origin}"

    def absorb(self, part: DatasetReport) -> None:
        """Adds the counts and drops of a later part of the same data set."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(part, name))
        self.first_control_token = self.first_control_token or part.first_control_token
        self.first_unsteady = self.first_unsteady or part.first_unsteady
        self.longest = max(self.longest, part.longest)
        for name, number in part.num_of_label.items():
            self.num_of_label[name] = self.num_of_label.get(name, 0) + number
        for reason, tally in part.drops.items():
            total = self.drops.setdefault(reason, DropTally(tally.is_consented))
            total.count += tally.count
            total.examples.extend(tally.examples[: NUM_EXAMPLES - len(total.examples)])

    def to_plain(self) -> dict[str, Any]:
        """Everything that there is, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> DatasetReport:
        """The report that `to_plain` wrote.

        Raises:
            KeyError, TypeError: It is not what `to_plain` writes.
        """
        drops = {
            reason: DropTally(
                tally["is_consented"],
                tally["count"],
                [
                    Drop(**{**each, "origin": Origin(**each["origin"])})
                    for each in tally["examples"]
                ],
            )
            for reason, tally in plain["drops"].items()
        }
        return cls(**{**plain, "drops": drops})

    @property
    def num_dropped_silently(self) -> int:
        """Records lost without the user's consent."""
        return sum(tally.count for tally in self.drops.values() if not tally.is_consented)

    def render(self) -> list[str]:
        """Plain lines for the terminal."""
        num_read = count(self.num_read, "record")
        head = f"{self.path} ({self.type}): {num_read} read, {self.num_kept:,} kept"
        if self.num_truncated:
            head += f", {self.num_truncated:,} of them cut"
        num_tokens = count(self.num_tokens, "token")
        trained = "" if self.num_of_label else f", {self.num_trained_tokens:,} trained"
        lines = [f"{head}; {num_tokens}{trained}"]
        lines.extend(f"  {line}" for line in label_lines(self.num_of_label, self.num_kept))
        if self.strategy:
            lines.append(f"  strategy {self.strategy['path']} sha256 {self.strategy['sha256']}")
        for reason, tally in self.drops.items():
            places = ", ".join(str(drop.origin) for drop in tally.examples)
            more = ", ..." if tally.count > len(tally.examples) else ""
            lines.append(f"  dropped {tally.count:,}: {reason} ({places}{more})")
        lines.extend(f"  note: {note}" for note in self.notes)
        return lines


_COUNTS = (
    "num_read",
    "num_kept",
    "num_truncated",
    "num_rows",
    "num_lost_rows",
    "num_tokens",
    "num_trained_tokens",
    "num_without_end",
    "num_with_control_tokens",
)


@dataclass(frozen=True)
class DataReport:
    """The account of a run's data.

    Attributes:
        datasets: One a data set, in the YAML's order, `test_datasets` last.
        num_train: Rows to train on.
        num_heldout: Rows held out.
        is_from_cache: The tokens were there already; the account is that of their making.
        notes: What the user should know of the cache.
        is_head: It is a stream, of which the first records were read.
    """

    datasets: tuple[DatasetReport, ...]
    num_train: int
    num_heldout: int
    is_from_cache: bool = False
    notes: tuple[str, ...] = ()
    is_head: bool = False

    def render(self) -> list[str]:
        """Plain lines for the terminal."""
        lines = [line for dataset in self.datasets for line in dataset.render()]
        lines.extend(f"note: {note}" for note in self.notes)
        heldout = f", {self.num_heldout:,} held out" if self.num_heldout else ""
        source = " (tokens from the cache)" if self.is_from_cache else ""
        rows = count(self.num_train, "row")
        to_train_on = f"a stream: {rows} in its head" if self.is_head else f"{rows} to train on"
        return [*lines, f"{to_train_on}{heldout}{source}"]

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, origins written as `file:line`."""
        return {
            "num_train": self.num_train,
            "num_heldout": self.num_heldout,
            "is_head": self.is_head,
            "is_from_cache": self.is_from_cache,
            "datasets": [_plain(dataset) for dataset in self.datasets],
        }


def label_lines(counts: Mapping[str, int], num_records: int) -> list[str]:
    """The counts for a reader, the most frequent first: `Negative 512 (51 %), Positive 488`."""
    if not counts:
        return []
    by_number = sorted(counts.items(), key=lambda item: -item[1])
    parts = [
        f"{name} {number:,} ({number / max(num_records, 1):.0%})"
        for name, number in by_number[:LABELS_SHOWN]
    ]
    rest = f", and {len(by_number) - LABELS_SHOWN} more" if len(by_number) > LABELS_SHOWN else ""
    lines = [f"labels: {', '.join(parts)}{rest}"]
    if missing := [name for name, number in by_number if not number]:
        lines.append(f"no record here has the label {', '.join(missing[:LABELS_SHOWN])}")
    return lines


def count(number: int, noun: str) -> str:
    """The number with its noun: `1 record`, `1,200 records`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def count_drops(datasets: Iterable[DatasetReport]) -> dict[str, DropTally]:
    """Losses of several data sets together, by kind, the most frequent first."""
    together: dict[str, DropTally] = {}
    for dataset in datasets:
        for reason, tally in dataset.drops.items():
            total = together.setdefault(reason, DropTally(tally.is_consented))
            total.count += tally.count
            total.examples = [*total.examples, *tally.examples][:NUM_EXAMPLES]
    return dict(sorted(together.items(), key=lambda item: -item[1].count))


def _plain(dataset: DatasetReport) -> dict[str, Any]:
    plain = asdict(dataset)
    plain["drops"] = {
        reason: {
            "count": tally.count,
            "is_consented": tally.is_consented,
            "examples": [
                {"origin": str(drop.origin), "detail": drop.detail, "record": drop.record}
                for drop in tally.examples
            ],
        }
        for reason, tally in dataset.drops.items()
    }
    return plain

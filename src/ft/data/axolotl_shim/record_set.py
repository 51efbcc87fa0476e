"""One record as a data set, for strategies that lay out a whole data set at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]


class RecordSet:
    """What a strategy's `wrap_dataset` may do with a data set: look at it, map it, filter it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    @property
    def column_names(self) -> list[str]:
        """Names of the fields."""
        return list(self.rows[0]) if self.rows else []

    @property
    def features(self) -> dict[str, None]:
        """Names of the fields; their types are not known."""
        return dict.fromkeys(self.column_names)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def map(
        self,
        function: Callable[..., Any],
        batched: bool = False,
        remove_columns: str | Sequence[str] | None = None,
        **options: Any,
    ) -> RecordSet:
        """Each row with what `function` makes of it, without the columns that are to go."""
        removed = {remove_columns} if isinstance(remove_columns, str) else set(remove_columns or ())
        rows: list[Row] = []
        for row in self.rows:
            kept = {name: value for name, value in row.items() if name not in removed}
            if not batched:
                rows.append({**kept, **(function(dict(row)) or {})})
                continue
            columns = function({name: [value] for name, value in row.items()})
            made = [
                dict(zip(columns, each, strict=True))
                for each in zip(*columns.values(), strict=True)
            ]
            rows += [{**kept, **each} for each in made]
        return RecordSet(rows)

    def filter(self, function: Callable[..., Any], **options: Any) -> RecordSet:
        """The rows for which `function` says yes."""
        return RecordSet([row for row in self.rows if function(dict(row))])

    def remove_columns(self, names: str | Sequence[str]) -> RecordSet:
        """The rows without these fields."""
        return self.map(lambda row: {}, remove_columns=names)

"""How long the rows are: a histogram that a person can read, and quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUANTILES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
MAX_BUCKETS = 10
_TAIL = 0.99
"""Longer rows than this quantile share the last bucket, so that one giant doesn't flatten all."""


@dataclass(frozen=True)
class Bucket:
    """Rows of `first` to `last` tokens."""

    first: int
    last: int
    num_rows: int


@dataclass(frozen=True)
class LengthSummary:
    """Lengths of a data set's rows, in tokens.

    Attributes:
        buckets: From short to long, all of equal width but the last, which takes the tail.
        quantiles: Name -> tokens; the names are those of `QUANTILES`.
        num_rows: In all buckets.
        num_tokens: In all rows.
    """

    buckets: tuple[Bucket, ...]
    quantiles: dict[str, int]
    num_rows: int
    num_tokens: int

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.quantiles["longest"]


def summarize_lengths(lengths: npt.ArrayLike) -> LengthSummary | None:
    """The lengths in a few numbers; None if there are no rows."""
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes):
        return None
    quantiles = np.quantile(sizes, [*QUANTILES.values()], method="inverted_cdf")
    edges = _edges(int(sizes.min()), int(np.quantile(sizes, _TAIL, method="inverted_cdf")))
    counts = np.bincount(np.searchsorted(edges, sizes, side="right") - 1, minlength=len(edges))
    lasts = [*(edge - 1 for edge in edges[1:]), max(int(sizes.max()), edges[-1])]
    return LengthSummary(
        tuple(Bucket(*values) for values in zip(edges, lasts, map(int, counts), strict=True)),
        dict(zip(QUANTILES, map(int, quantiles), strict=True)),
        len(sizes),
        int(sizes.sum()),
    )


def _edges(shortest: int, tail: int) -> Sequence[int]:
    """Where each bucket begins: multiples of a power of two, as sequence lengths are."""
    width = 1
    while tail // width - shortest // width >= MAX_BUCKETS:
        width *= 2
    return range(shortest // width * width, tail + 1, width)

"""Data sets mixed by weights: which record of which set comes when, in one epoch.

    concat              every record once
    interleave_under    drawn by probability, until the first set is used up
    interleave_over     drawn by probability, until the last one is: smaller sets come round again

The draws follow from the seed. Every epoch trains on the same records, shuffled anew; with
interleave_under those that were not drawn are left out for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ft.data.intake import Intake
from ft.data.packing import LongArray
from ft.data.tokenized import TokenizedSet
from ft.data.workers import Job
from ft.spec.runspec import DataSpec

_FIRST_BLOCK, _LARGEST_BLOCK = 4096, 1 << 20


@dataclass(frozen=True)
class Mixture:
    """How several data sets are interleaved.

    Attributes:
        probabilities: Of each set, summing up to 1; None = they take turns.
        num_sets: How many there are.
        comes_round: Until the last set is used up, not the first.
        seed: Of the draws.
    """

    probabilities: tuple[float, ...] | None
    num_sets: int
    comes_round: bool
    seed: int

    def draws(self, *counters: int) -> Iterator[LongArray]:
        """Numbers of sets, block after block, without end; the same for the same counters."""
        generator = np.random.default_rng([self.seed, *counters])
        start, size = 0, _FIRST_BLOCK
        while True:
            if self.probabilities is None:
                yield np.arange(start, start + size) % self.num_sets
            else:
                yield generator.choice(self.num_sets, size, p=self.probabilities)
            start, size = start + size, min(2 * size, _LARGEST_BLOCK)

    def order(self, sizes: Sequence[int]) -> LongArray:
        """[N, 2]: set and number within the set of each record of an epoch.

        Args:
            sizes: Records of each set; a set of none takes no part.
        """
        needed = np.array(sizes, np.int64)
        drawn = np.empty(0, np.int64)
        ends = max if self.comes_round else min
        for block in self.draws():
            drawn = np.concatenate([drawn, block[needed[block] > 0]])
            places = [np.flatnonzero(drawn == each) for each in range(self.num_sets)]
            last = [
                int(of_set[size - 1]) if len(of_set) >= size else None
                for of_set, size in zip(places, sizes, strict=True)
                if size
            ]
            known = [each for each in last if each is not None]
            if not last:
                break
            if known and (not self.comes_round or len(known) == len(last)):
                drawn = drawn[: ends(known) + 1]
                break
        within = np.zeros(len(drawn), np.int64)
        for number, size in enumerate(sizes):
            places_of = np.flatnonzero(drawn == number)
            within[places_of] = np.arange(len(places_of)) % max(size, 1)
        return np.stack([drawn, within], axis=1)

    def jobs(self, intakes: Sequence[Intake], chunk_size: int, *counters: int) -> Iterator[Job]:
        """Chunks of the sets in the order in which they are drawn, for one pass over a stream."""
        chunks = [intake.chunks(chunk_size) for intake in intakes]
        is_over: set[int] = set()
        for number in (int(each) for block in self.draws(*counters) for each in block):
            chunk = next(chunks[number], None)
            if chunk is None:
                is_over.add(number)
                if not self.comes_round or len(is_over) == self.num_sets:
                    return
                chunks[number] = intakes[number].chunks(chunk_size)
                chunk = next(chunks[number], None)
            if chunk is not None:
                yield number, chunk


def mixture_of(spec: DataSpec, seed: int) -> Mixture | None:
    """How a run's data sets are interleaved; None where they are read one after the other."""
    if spec.mix_strategy == "concat":
        return None
    given = spec.interleave_probs
    probabilities = None if given is None else tuple(each / sum(given) for each in given)
    comes_round = spec.mix_strategy == "interleave_over"
    return Mixture(probabilities, len(spec.datasets), comes_round, seed)


def mixed(
    rows: TokenizedSet, num_rows_of: Sequence[int], mixture: Mixture
) -> tuple[TokenizedSet, LongArray, LongArray]:
    """Rows of several data sets, interleaved.

    Args:
        rows: In any order.
        num_rows_of: Rows of each data set in the store, one behind the other.
        mixture: How.

    Returns:
        The rows of an epoch; and of each set, how many there are and how many an epoch holds.
    """
    set_of = np.searchsorted(np.cumsum(num_rows_of), rows.store_rows, side="right")
    positions = [np.flatnonzero(set_of == number) for number in range(mixture.num_sets)]
    order = mixture.order([len(each) for each in positions])
    picked = np.empty(len(order), np.int64)
    for number, of_set in enumerate(positions):
        is_drawn = order[:, 0] == number
        picked[is_drawn] = of_set[order[is_drawn, 1]]
    sizes = np.array([len(each) for each in positions])
    return rows.picked(picked), sizes, np.bincount(order[:, 0], minlength=mixture.num_sets)


def describe_mixture(
    names: Sequence[str], sizes: LongArray, counts: LongArray, mixture: Mixture
) -> str:
    """What an epoch holds of each set, in a line."""
    until = "the last" if mixture.comes_round else "the first"
    shares = [
        f"{name} {number:,} ({number / max(int(counts.sum()), 1):.1%}; it has {size:,})"
        for name, size, number in zip(names, sizes.tolist(), counts.tolist(), strict=True)
    ]
    return f"an epoch is drawn until {until} set is used up: {', '.join(shares)} rows"

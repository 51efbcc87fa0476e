"""Records into packs: rows of at most ``capacity`` tokens, nearly full.

Best fit, longest first: each record goes where the least room is left that still holds it. Only the
counts of each length matter to that, so it is done once, for lengths instead of records:

    lengths 7 5 5 3 3 3 2 1 1, capacity 10   ->   7 3 | 5 5 | 3 3 2 1 1
                                                  packs of slots: 0 1 1 0 2 2 2 2 2

A slot is a place in the order from long to short. An epoch deals its records out to the slots anew,
records of equal length in random order: other packs in every epoch, but always as many, so the
number of steps is known beforehand, and a pack follows from (seed, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Packing:
    """Which slots share a pack. N slots, one a record.

    Attributes:
        lengths: int64 [N], the records' tokens.
        capacity: Tokens that a pack holds at most.
        pack_of_slot: int32 [N], the pack of the longest record, of the second longest, ...
        num_packs: Packs in all.
    """

    lengths: LongArray
    capacity: int
    pack_of_slot: IntArray
    num_packs: int

    @property
    def efficiency(self) -> float:
        """Share of the packs' room that holds tokens; 1.0 where there is nothing to pack."""
        room = self.num_packs * self.capacity
        return int(self.lengths.sum()) / room if room else 1.0

    def fill(self, generator: np.random.Generator) -> tuple[LongArray, LongArray]:
        """Packs of records in random order.

        Returns:
            Record numbers, pack after pack, int64 [N]; where each pack begins and the last one
            ends, int64 [num_packs + 1].
        """
        shuffled = generator.permutation(len(self.lengths))
        by_slot = shuffled[np.argsort(-self.lengths[shuffled], kind="stable")]
        place_of_pack = generator.permutation(self.num_packs)
        place_of_slot = place_of_pack[self.pack_of_slot]
        sizes = np.bincount(place_of_slot, minlength=self.num_packs)
        records = by_slot[np.argsort(place_of_slot, kind="stable")]
        return records, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @cached_property
    def packs(self) -> list[list[int]]:
        """Record numbers of each pack, nothing drawn: the same for the same lengths."""
        by_slot = np.argsort(-self.lengths, kind="stable")
        records = by_slot[np.argsort(self.pack_of_slot, kind="stable")]
        ends = np.cumsum(np.bincount(self.pack_of_slot, minlength=self.num_packs))
        return [pack.tolist() for pack in np.split(records, ends[:-1])] if self.num_packs else []

    def to_json(self) -> dict[str, Any]:
        """Its figures, for events and reports."""
        return {
            "num_records": len(self.lengths),
            "num_packs": self.num_packs,
            "capacity": self.capacity,
            "efficiency": round(self.efficiency, 6),
        }


def pack(lengths: npt.ArrayLike, capacity: int) -> Packing:
    """Best-fit-decreasing packs of all records.

    Takes time by the number of different lengths and fill levels, not of records.

    Args:
        lengths: Tokens of each record, each at least 1.
        capacity: Tokens that a pack holds at most.

    Raises:
        ValueError: a record is empty, or longer than a pack.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(
            f"records of {sizes.min()} to {sizes.max()} tokens in packs of {capacity}: "
            "each needs 1 token at least and must fit"
        )
    shelves = _Shelves(capacity)
    counts = np.bincount(sizes, minlength=1)
    placed = [
        packs
        for length in np.flatnonzero(counts)[::-1].tolist()
        for packs in shelves.place(length, int(counts[length]))
    ]
    pack_of_slot = np.concatenate([np.empty(0, np.int32), *placed])
    return Packing(sizes, capacity, pack_of_slot, shelves.num_packs)


class _Shelves:
    """Packs under way, each on the shelf of the room that it has left.

    Packs of one shelf are alike, so they are moved by the number.
    """

    def __init__(self, capacity: int) -> None:
        self.num_packs = 0
        self._capacity = capacity
        self._packs: list[IntArray] = [np.empty(0, np.int32)] * (capacity + 1)
        self._is_used = np.zeros(capacity + 1, dtype=bool)

    def place(self, length: int, count: int) -> Iterator[IntArray]:
        """Puts ``count`` records of a length where they fit best; gives the pack of each in turn.

        The pack that is the best fit for one stays it for the next, as long as it has room. So a
        shelf's packs each take as many as they hold, before the next shelf is looked at.
        """
        rooms = np.flatnonzero(self._is_used[length:]) + length
        for room in [*rooms.tolist(), self._capacity]:
            if not count:
                return
            each = room // length
            packs = self._take(room, -(-count // each))
            num_placed = min(count, len(packs) * each)
            num_full, num_in_last = divmod(num_placed, each)
            self._put(room - each * length, packs[:num_full])
            self._put(room - num_in_last * length, packs[num_full:])
            count -= num_placed
            yield np.repeat(packs, each)[:num_placed]

    def _take(self, room: int, count: int) -> IntArray:
        """At most ``count`` packs of a shelf; as many new ones as are asked for."""
        if room == self._capacity:
            self.num_packs += count
            return np.arange(self.num_packs - count, self.num_packs, dtype=np.int32)
        packs = self._packs[room]
        self._packs[room] = packs[count:]
        self._is_used[room] = len(packs) > count
        return packs[:count]

    def _put(self, room: int, packs: IntArray) -> None:
        if len(packs):
            old = self._packs[room]
            self._packs[room] = np.concatenate([old, packs]) if len(old) else packs
            self._is_used[room] = True

"""The name that a mistyped one most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.6  # difflib's own: more than half of the letters agree

_LONGEST = 100  # no name is so long, and comparing takes the square of it


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate closest to a name; None if there is nothing like it.

    One slip of the fingers (a letter dropped, doubled, replaced, or two swapped) beats every other
    likeness; among equals, letters that agree decide, then the order of the candidates.
    """
    if len(name) > _LONGEST:
        return None
    wanted = _plain(name)
    by_plain = {_plain(candidate): candidate for candidate in reversed(list(candidates))}
    if wanted in by_plain:
        return by_plain[wanted]
    slips = [plain for plain in reversed(by_plain) if _is_one_slip(wanted, plain)]
    if slips:
        return by_plain[max(slips, key=lambda plain: _likeness(wanted, plain))]
    likeness = {plain: _likeness(plain, wanted) for plain in reversed(by_plain)}
    closest = max(likeness, key=lambda plain: likeness[plain], default="")
    return by_plain[closest] if likeness.get(closest, 0.0) >= _CUTOFF else None


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _is_one_slip(one: str, other: str) -> bool:
    """Whether one edit turns a name into the other."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(one), len(other)) - start and one[-1 - end] == other[-1 - end]:
        end += 1
    left, right = one[start : len(one) - end], other[start : len(other) - end]
    is_swap = len(left) == 2 and left == right[::-1]
    return is_swap or max(len(left), len(right)) == 1

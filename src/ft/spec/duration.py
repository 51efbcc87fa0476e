"""Lengths of time as people write them: ``2h``, ``90m``, ``1h30m``, ``45s``, ``1d``."""

from __future__ import annotations

import re
from typing import Any

_PARTS = re.compile(r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s)?")
_SECONDS = (86_400, 3_600, 60, 1)


def seconds_of(duration: str) -> int:
    """The duration in seconds.

    Raises:
        ValueError: it is none, or no time at all.
    """
    found = _PARTS.fullmatch(duration.strip().lower())
    parts = found.groups(default="0") if found else ()
    seconds = sum(int(part) * unit for part, unit in zip(parts, _SECONDS, strict=False))
    if not seconds:
        raise ValueError("a duration with its unit: 2h, 90m, 1h30m, 45s")
    return seconds


def checked_duration(value: Any) -> Any:
    """The value as it is.

    Raises:
        ValueError: it is no duration; a number without a unit is none.
    """
    seconds_of(value if isinstance(value, str) else "")
    return value

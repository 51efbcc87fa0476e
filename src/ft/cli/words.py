"""Times as a person reads them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds as a person reads them: ``1 h 05 min``, ``3 min 20 s``, ``12 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

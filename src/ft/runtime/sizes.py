"""Bytes of memory as a person reads them."""

from __future__ import annotations

_UNITS = ("GiB", "MiB", "KiB")
_LEAST = 0.1


def memory_size(num_bytes: float) -> str:
    """In the largest unit of which there is a tenth at least: ``4.9 GiB``, ``31.2 MiB``, ``0``."""
    size = num_bytes / 2**30
    for unit in _UNITS:
        if size >= _LEAST:
            return f"{size:,.1f} {unit}"
        size *= 2**10
    return f"{num_bytes:.0f} B" if num_bytes else "0"

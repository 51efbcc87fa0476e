"""A glance at a data file of this machine: the fields of its first record, without a library."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

_FAR_ENOUGH = 1_000_000
"""Bytes within which the first record ends, or is not looked at."""


def first_record(path: Path) -> dict[str, Any]:
    """The first record of a JSON, JSON Lines or CSV file; empty where it can't be seen."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read(_FAR_ENOUGH)
    except (OSError, UnicodeDecodeError):
        return {}
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        rows = csv.DictReader(text.splitlines(), delimiter="\t" if ending == ".tsv" else ",")
        return dict(next(iter(rows), {}))
    return _first_object(text) if ending in (".json", ".jsonl", ".ndjson") else {}


def fields_of_first_record(path: Path) -> list[str]:
    """The names of its fields; empty where the file is not here or is of another kind."""
    return list(first_record(path))


def _first_object(text: str) -> dict[str, Any]:
    start = text.find("{")
    if start < 0:
        return {}
    try:
        record, _ = json.JSONDecoder().raw_decode(text, start)
    except json.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}

"""`pretraining_dataset:` as entries of `datasets:` that are trained from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft.spec.document import Document, KeyPath

KEY = "pretraining_dataset"

_TRAINED_WHOLE = (None, "pretrain", "completion")

READ_AS = (
    "pretraining_dataset is read as datasets of type: completion: texts with an end token, cut "
    "into rows of sequence_len. All of it is read before the first step; a slice reads less: "
    "split: train[:1%]"
)


def check_pretraining(values: Mapping[str, Any]) -> tuple[KeyPath, str, str] | None:
    """The key, what is wrong and what to do; None if nothing is, or the key is not there."""
    if not values.get(KEY):
        return None
    if values.get("datasets"):
        what = "datasets and pretraining_dataset are both given"
        return (KEY,), what, "keep one: an entry of datasets with type: completion is the same"
    if not values.get("max_steps"):
        what = "pretraining_dataset needs max_steps, as in axolotl, where it has no length"
        return (KEY,), what, "set max_steps, or name the set under datasets with type: completion"
    return None


def read_as_datasets(document: Document) -> bool:
    """Puts the entries of `pretraining_dataset` under `datasets`, in place, with their positions.

    Returns:
        Whether there were any.
    """
    given = document.values.pop(KEY, None)
    if not given:
        return False
    entries = given if isinstance(given, list) else [given]
    document.values["datasets"] = [_as_completion(entry) for entry in entries]
    moved = {
        ("datasets", *(path[1:] if isinstance(given, list) else (0, *path[1:]))): position
        for path, position in document.positions.items()
        if path[:1] == (KEY,)
    }
    document.positions.update(moved)
    document.positions[("datasets",)] = document.positions.get((KEY,), (1, 1))
    return True


def _as_completion(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"path": entry, "type": "completion"}
    if not isinstance(entry, dict):
        return entry
    today = {key: value for key, value in entry.items() if key != "skip"}
    if today.get("type") in _TRAINED_WHOLE:
        today["type"] = "completion"
    skip, split = entry.get("skip"), entry.get("split") or "train"
    if isinstance(skip, int) and skip > 0 and isinstance(split, str) and "[" not in split:
        today["split"] = f"{split}[{skip}:]"
    elif skip:
        today["skip"] = skip
    return today

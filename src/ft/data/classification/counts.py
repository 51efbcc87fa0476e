"""How many records have each label."""

from __future__ import annotations

import numpy as np

from ft.data.segments import IGNORE_INDEX
from ft.data.tokenized import IntArray
from ft.spec.classification import Classification

NONE = "(none)"
"""What records of several labels that have none are counted as."""


def count_labels(labels: IntArray, task: Classification) -> dict[str, int]:
    """Records of each label, all labels named; a regression has nothing to count.

    Args:
        labels: int32 [t] of rows, end to end.
        task: The labels that there are.
    """
    if task.is_regression:
        return {}
    names = [*task.labels, NONE] if task.is_multi_label else [*task.labels]
    counts = np.bincount(labels[labels != IGNORE_INDEX], minlength=len(names))
    counted = dict(zip(names, counts.tolist(), strict=True))
    return {name: number for name, number in counted.items() if number or name != NONE}

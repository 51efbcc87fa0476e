"""How well labels, or numbers, are told: scikit-learn's metrics over all held-out records."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)

from ft.spec.classification import Classification

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRICS_OF = {
    "single_label_classification": ("accuracy", "f1_macro", "f1_micro"),
    "multi_label_classification": ("accuracy", "f1_macro", "f1_micro"),
    "regression": ("mse", "mae", "pearson", "r2"),
}
"""Numbers that `metric_for_best_model` may name, by the kind of problem."""
THRESHOLD = 0.5
"""Of several labels a record, those of this probability and above are told."""


def probabilities(logits: FloatArray, task: Classification) -> FloatArray:
    """[N, L] of each label; a regression's numbers [N, 1] as they are."""
    if task.is_regression:
        return logits
    if task.is_multi_label:
        result: FloatArray = np.exp(-np.logaddexp(0.0, -logits))
        return result
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    result = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def label_figures(
    predicted: FloatArray, targets: IntArray | FloatArray, task: Classification
) -> dict[str, Any]:
    """What the metrics say, by the names that events use.

    Args:
        predicted: [N, L] from `probabilities`.
        targets: [N] label numbers, [N, L] of 0 and 1, or [N] numbers of a regression.
        task: The labels that there are.

    Returns:
        `eval_accuracy`, `eval_f1_macro` (over labels that occur), `eval_f1_micro`, `f1_of_label`,
        `confusion` (rows: the records' label, columns: what is told; one label a record only); or
        `eval_mse`, `eval_mae`, `eval_pearson`, `eval_r2`, None where it is not defined.
    """
    if task.is_regression:
        return _of_numbers(predicted[:, 0], np.asarray(targets, np.float64))
    told = (predicted >= THRESHOLD).astype(int) if task.is_multi_label else predicted.argmax(axis=1)
    numbers = list(range(len(task.labels)))
    options: dict[str, Any] = {"labels": numbers, "zero_division": 0.0}
    f1 = f1_score(targets, told, average=None, **options)
    figures: dict[str, Any] = {
        "eval_accuracy": float(accuracy_score(targets, told)),
        "eval_f1_macro": float(f1[_occurring(targets, told, len(numbers))].mean()),
        "eval_f1_micro": float(f1_score(targets, told, average="micro", **options)),
        "f1_of_label": dict(zip(task.labels, map(float, f1), strict=True)),
    }
    if not task.is_multi_label:
        figures["confusion"] = confusion_matrix(targets, told, labels=numbers).tolist()
    return figures


def _occurring(targets: Any, told: Any, num_labels: int) -> npt.NDArray[np.bool_]:
    """Labels that a record has or is told to have; another one's F1 means nothing."""
    both = np.stack([targets, told])
    if both.ndim == 3:  # several labels a record: [2, N, L]
        return np.asarray(both.any(axis=(0, 1)))
    return np.bincount(both.ravel(), minlength=num_labels) > 0


def _of_numbers(predicted: FloatArray, targets: FloatArray) -> dict[str, float | None]:
    has_spread = len(targets) > 1 and targets.std() > 0
    pearson = (
        float(np.corrcoef(predicted, targets)[0, 1]) if has_spread and predicted.std() > 0 else None
    )
    return {
        "eval_mse": float(mean_squared_error(targets, predicted)),
        "eval_mae": float(mean_absolute_error(targets, predicted)),
        "eval_pearson": pearson if pearson is None or math.isfinite(pearson) else None,
        "eval_r2": float(r2_score(targets, predicted)) if has_spread else None,
    }

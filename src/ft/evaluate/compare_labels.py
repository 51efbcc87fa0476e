"""`ft eval` of a classifier: the task's metrics on held-out records, base beside tuned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ft.data.tokenized import TokenizedSet
from ft.evaluate.classifier import Classifier, classifier_of
from ft.evaluate.trained import TrainedRun


def compare_labels(
    run: TrainedRun, heldout: TokenizedSet, *, batch_size: int
) -> dict[str, dict[str, Any]]:
    """What evaluations measure (``label_metrics``), and five predictions.

    Args:
        run: A finished one.
        heldout: Its held-out records.
        batch_size: Records in one pass.

    Returns:
        `base` (the body with the head that training began with) and `tuned`.
    """
    result = {}
    for name, classifier in _base_and_tuned(run):
        with classifier.asked() as model:
            result[name] = classifier.objective.measure(
                model, heldout, batch_size=batch_size, device=classifier.loaded.device
            )
        del classifier  # of two whole models, one at a time
    return result


def _base_and_tuned(run: TrainedRun) -> Iterator[tuple[str, Classifier]]:
    if run.adapter.adapter is None:
        yield "base", classifier_of(run, run.load_base(), is_base=True)
        yield "tuned", classifier_of(run, run.load())
    else:
        loaded = run.load()
        yield "base", classifier_of(run, loaded, is_base=True)
        yield "tuned", classifier_of(run, loaded)

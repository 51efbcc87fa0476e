"""Asking a classifier: texts in the layout that was trained -> labels with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft.evaluate.asked import AskedModel
from ft.evaluate.classify import LabelTuning, label_tuning, shown
from ft.evaluate.label_metrics import probabilities
from ft.evaluate.trained import TrainedRun
from ft.model import LoadedModel
from ft.runtime import Problem, UserError
from ft.spec.classification import Classification


@dataclass(frozen=True)
class Classifier(AskedModel):
    """A loaded model that knows its labels.

    As a base it is the one below the adapter, with the head that training began with.
    """

    objective: LabelTuning
    """What it was trained by."""

    @property
    def task(self) -> Classification:
        """The labels."""
        return self.objective.task

    def require_known(self, names: Sequence[str]) -> None:
        """A field that the layout does not read is a mistake.

        Raises:
            UserError: names the field, and those that there are.
        """
        known = (*self.layout.prompt_fields, *self.layout.response_fields)
        for name in names:
            if name not in known:
                what = f"the layout has no field {name!r}"
                raise UserError(Problem(what, fix=f"it has {', '.join(known)}"))

    def predictions(self, prompts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """What is told of several texts in one pass; see ``classify.shown``."""
        inputs = self.objective.layout.inputs(prompts)
        with self.asked() as model:
            on_device = {name: value.to(self.loaded.device) for name, value in inputs.items()}
            logits = self.objective.logits(model, on_device).double().cpu().numpy()
        return [shown(row, self.task) for row in probabilities(logits, self.task)]


def classifier_of(run: TrainedRun, loaded: LoadedModel, *, is_base: bool = False) -> Classifier:
    """A classifier for a model that is loaded already.

    Raises:
        UserError: the base is asked for where none is beside the model.
    """
    assert run.labels is not None
    if is_base and run.spec is None:
        what = "holds a whole model: there is no base beside it"
        raise UserError(Problem(what, str(run.folder), fix="ask its run"))
    is_beside = is_base and loaded.has_adapter
    return Classifier(
        loaded, run.layouts[0], label_tuning(run.labels.task, loaded), is_base=is_beside
    )


def open_classifier(run: TrainedRun, *, is_base: bool = False) -> Classifier:
    """Loads a classifier's run, or a merged one; arguments and errors as of `classifier_of`."""
    is_whole_base = is_base and run.spec is not None and run.adapter.adapter is None
    return classifier_of(run, run.load_base() if is_whole_base else run.load(), is_base=is_base)

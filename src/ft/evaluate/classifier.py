"""Asking a classifier: texts in the layout that was trained -> labels with their probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ft.data.prompt import PromptLayout
from ft.evaluate.classify import LabelTuning, label_tuning, shown
from ft.evaluate.label_metrics import probabilities
from ft.evaluate.trained import TrainedRun
from ft.model import LoadedModel
from ft.runtime import Problem, UserError
from ft.spec.classification import Classification


@dataclass(frozen=True)
class Classifier:
    """A loaded model that knows its labels.

    Attributes:
        loaded: The model.
        layout: How its texts are laid out.
        objective: What it was trained by.
        is_base: The base below the adapter, with the head that training began with.
    """

    loaded: LoadedModel
    layout: PromptLayout
    objective: LabelTuning
    is_base: bool = False

    @property
    def task(self) -> Classification:
        """The labels."""
        return self.objective.task

    def prompt(self, fields: Mapping[str, Any], *, text: str | None = None) -> list[int]:
        """Token ids of a record, cut as in training.

        Args:
            fields: Its fields, by name.
            text: Fills the layout's text.

        Raises:
            UserError: a field is missing, or is no text.
        """
        record = dict(fields)
        if text is not None:
            if self.layout.default_field in record:
                what = f"the {self.layout.default_field} is given twice"
                raise UserError(Problem(what, fix="by --prompt, or by --field or --record"))
            record[str(self.layout.default_field)] = text
        return self.layout.encode_prompt(record, self.loaded.tokenizer.tokenizer)

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

    @contextmanager
    def asked(self) -> Iterator[Any]:
        """The model in the form that is asked, ready for forward passes. Yields it."""
        base: AbstractContextManager[Any] = (
            self.loaded.without_adapter() if self.is_base else nullcontext()
        )
        with self.loaded.inference() as model, base:
            yield model

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

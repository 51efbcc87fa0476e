"""The labels of a run, once they are known: what data, model and evaluation all go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ft.spec.sections.labels import ProblemType

IS_SINGLE: ProblemType = "single_label_classification"
IS_MULTI: ProblemType = "multi_label_classification"
IS_REGRESSION: ProblemType = "regression"


@dataclass(frozen=True)
class Classification:
    """What a model tells of a text.

    Attributes:
        problem_type: One label of several, any number of them, or a number.
        labels: Their names by number; a regression has one, the name of its number.
    """

    problem_type: ProblemType
    labels: tuple[str, ...]

    @property
    def is_regression(self) -> bool:
        """Whether a number is predicted."""
        return self.problem_type == IS_REGRESSION

    @property
    def is_multi_label(self) -> bool:
        """Whether a record may have several labels, or none."""
        return self.problem_type == IS_MULTI

    def to_json(self) -> dict[str, Any]:
        """What prompt.json holds, in transformers' terms."""
        return {
            "problem_type": self.problem_type,
            "id2label": {str(number): name for number, name in enumerate(self.labels)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Classification:
        """The labels that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: It is not what `to_json` writes.
        """
        if data["problem_type"] not in get_args(ProblemType):
            raise ValueError(f"problem_type is {data['problem_type']!r}")
        names = data["id2label"]
        labels = tuple(names[str(number)] for number in range(len(names)))
        if not labels or not all(isinstance(name, str) for name in labels):
            raise TypeError("id2label is no mapping from numbers to names")
        return cls(data["problem_type"], labels)

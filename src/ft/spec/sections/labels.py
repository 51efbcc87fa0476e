"""What a record's label is, where a model learns to tell labels rather than to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ft.spec.sections.section import Count, Names, Section

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
Side = Literal["left", "right"]
TaskType = Literal["CAUSAL_LM", "SEQ_CLS"]


def _names_in_order(value: Any) -> Any:
    """`{0: Negative, 1: Positive}` as `(Negative, Positive)`; keys may be written as texts."""
    if isinstance(value, Mapping):
        numbers = {int(key): name for key, name in value.items() if str(key).isdigit()}
        if len(numbers) != len(value) or sorted(numbers) != list(range(len(value))):
            raise ValueError("the numbers 0, 1, 2, ... without a gap, each with its name")
        value = [numbers[number] for number in range(len(numbers))]
    if not isinstance(value, list | tuple):
        return value
    if any(isinstance(name, bool) for name in value):
        raise ValueError("names in quotes: YAML reads a bare yes, no, on or off as true or false")
    names = tuple(str(name) if isinstance(name, int) else name for name in value)
    if any(name in names[:number] for number, name in enumerate(names)):
        raise ValueError("names that differ from one another")
    return names


LabelNames = Annotated[
    Names,
    BeforeValidator(
        _names_in_order, json_schema_input_type=tuple[str | int, ...] | dict[int, str | int]
    ),
]
"""Names by number; a mapping number -> name becomes this."""

Weight = Annotated[float, Field(gt=0.0)]


class LabelSpec(Section):
    """Whether records carry labels, and which."""

    task_type: TaskType = Field(
        "CAUSAL_LM",
        description="CAUSAL_LM: learn to write. SEQ_CLS: learn the label (or a number) of a text, "
        "with a new head on an encoder or a decoder; each data set is `type: classification` then.",
    )
    problem_type: ProblemType | None = Field(
        None,
        description="SEQ_CLS: one label a record, any number of them, or a number to predict; "
        "default what the records hold.",
    )
    id2label: LabelNames = Field(
        (), description="SEQ_CLS: names of the labels: a list, or a mapping 0, 1, ... -> name; "
        "default those of the records, sorted.",
    )  # fmt: skip
    num_labels: Count | None = Field(
        None,
        description="SEQ_CLS: how many labels there are; follows from id2label or the records.",
    )
    class_weights: Literal["balanced"] | tuple[Weight, ...] | dict[str, Weight] | None = Field(
        None,
        description="SEQ_CLS: what a record of each label counts in the loss: a list in the order "
        "of id2label, a mapping name -> weight (others count 1), or balanced: the rarer the label, "
        "the more. Of several labels a record: what a label that is there counts.",
    )
    truncation_side: Side = Field(
        "right", description="SEQ_CLS: which end a text loses that is longer than sequence_len."
    )

    @property
    def is_classification(self) -> bool:
        """Whether labels are learned, not texts."""
        return self.task_type == "SEQ_CLS"

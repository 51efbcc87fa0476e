"""Which labels there are, and of what kind: read from the records where the YAML does not say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ft.data.classification.targets import is_one_each, label_name
from ft.data.records import Record
from ft.data.segments import RecordError
from ft.data.sources import read_records
from ft.runtime.errors import Problem, UserError
from ft.spec.classification import IS_MULTI, IS_REGRESSION, IS_SINGLE
from ft.spec.runspec import DataSpec

MOST_LABELS = 1000
"""More different values than this are hardly labels."""
_NAME_OF_NUMBER = "value"
"""What a regression's number is called where `id2label` does not say."""


def with_labels_found(spec: DataSpec, base_dir: Path) -> DataSpec:
    """The data section with `problem_type`, `id2label` and `num_labels` as they are for its data.

    The labels are those of `datasets:`; a section without labels, or one that says all, is returned
    as it is, and no record is read for it.

    Args:
        spec: The run's data section.
        base_dir: The YAML's folder.

    Raises:
        UserError: The records have no labels, labels of several kinds, more than there can be, or
            another number of them than `num_labels` says.
    """
    if not spec.is_classification:
        return spec
    is_regression = spec.problem_type == IS_REGRESSION or (
        spec.problem_type is None and spec.num_labels == 1
    )
    if is_regression:
        return _found(spec, IS_REGRESSION, spec.id2label or (_NAME_OF_NUMBER,))
    if spec.id2label and spec.problem_type:
        return _found(spec, spec.problem_type, spec.id2label)
    return _from_records(spec, base_dir)


def _from_records(spec: DataSpec, base_dir: Path) -> DataSpec:
    seen = _Seen()
    for value in _values(spec, base_dir):
        seen.note(value)
        if len(seen.names) > MOST_LABELS:
            raise UserError(_too_many(spec))
    problem_type = spec.problem_type or seen.problem_type()
    if problem_type == IS_REGRESSION:
        return _found(spec, IS_REGRESSION, spec.id2label or (_NAME_OF_NUMBER,))
    names = spec.id2label or seen.labels(problem_type, spec.num_labels)
    if len(names) < 2 and problem_type == IS_SINGLE:
        what = (
            f"every record has the same label, {names[0]!r}" if names else "no record has a label"
        )
        fix = "field_label: names the field of the label; id2label: those that there are"
        raise UserError(Problem(what, ", ".join(entry.path for entry in spec.datasets), fix=fix))
    return _found(spec, problem_type, names)


def _found(spec: DataSpec, problem_type: str, names: tuple[str, ...]) -> DataSpec:
    if problem_type == IS_REGRESSION and len(names) != 1:
        raise UserError(Problem("a regression predicts one number", "id2label", fix="name one"))
    if spec.num_labels is not None and spec.num_labels != len(names):
        what = f"num_labels is {spec.num_labels}, and the records have {len(names)} labels"
        shown = ", ".join(names[:20])
        raise UserError(Problem(f"{what}: {shown}", fix="name all labels in id2label"))
    found = {"problem_type": problem_type, "id2label": names, "num_labels": len(names)}
    return spec.model_copy(update=found)


def _values(spec: DataSpec, base_dir: Path) -> Iterator[Any]:
    """The labels of all records that have one."""
    for entry in spec.datasets:
        for record in read_records(entry, base_dir):
            if isinstance(record, Record) and record.fields.get(entry.field_label) is not None:
                yield record.fields[entry.field_label]


class _Seen:
    """What the records' labels are."""

    def __init__(self) -> None:
        self.names: dict[str, bool] = {}
        """Each label, and whether it is a whole number."""
        self.num_of_each = 0
        """Labels that there must be, where records give a value for each."""
        self.kinds: set[str] = set()

    def note(self, value: Any) -> None:
        """Takes a record's label into account; what can't be one is left to the layout."""
        if isinstance(value, list | tuple):
            self.kinds.add(IS_MULTI)
            if is_one_each(value):
                self.num_of_each = max(self.num_of_each, len(value))
            else:
                self._name(value)
        elif isinstance(value, float) and not value.is_integer():
            self.kinds.add(IS_REGRESSION)
        else:
            self.kinds.add(IS_SINGLE)
            self._name([value])

    def _name(self, values: Iterable[Any]) -> None:
        for value in values:
            try:
                name = label_name(value)
            except RecordError:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            self.names[name] = self.names.get(name, True) and is_number

    def problem_type(self) -> str:
        """The kind that all labels can be."""
        if IS_MULTI in self.kinds:
            return IS_MULTI
        if IS_REGRESSION in self.kinds:
            if not all(self.names.values()):
                fix = "set problem_type, and field_label: if another field holds the label"
                raise UserError(Problem("some labels are numbers, others are names", fix=fix))
            return IS_REGRESSION
        return IS_SINGLE

    def labels(self, problem_type: str, num_labels: int | None) -> tuple[str, ...]:
        """The names in order: numbers by size, others by the alphabet."""
        if self.num_of_each and problem_type == IS_MULTI:
            return tuple(map(str, range(self.num_of_each)))
        if not all(self.names.values()):
            return tuple(sorted(self.names))
        numbers = sorted(map(int, self.names))
        if num_labels is not None and numbers and numbers[0] >= 0 and numbers[-1] < num_labels:
            return tuple(map(str, range(num_labels)))
        return tuple(map(str, numbers))


def _too_many(spec: DataSpec) -> Problem:
    where = ", ".join(entry.path for entry in spec.datasets)
    return Problem(
        f"the records have more than {MOST_LABELS:,} different labels",
        where,
        fix="set problem_type: regression if the label is a number to predict; "
        "id2label: names all labels, however many; field_label: names their field",
    )

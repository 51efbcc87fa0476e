"""The frozen, nested, typed form of a YAML file: the only thing that the rest of `ft` sees.

Field names are the dialect's keys, so one name runs from the YAML to the code; the sections group
what is used together and say where each part of the spec stops:

    RunSpec
    |-- model       what is loaded          -> ft.model
    |-- precision   in which number formats -> ft.model, ft.train
    |-- adapter     what is added to it     -> ft.model
    |-- data        what it learns from     -> ft.data
    |-- preference  answers that are judged -> ft.data
    |-- training    how it learns           -> ft.train
    |-- evaluation  how it is measured      -> ft.train, ft.evaluate
    |-- output      what is left behind     -> ft.train
    `-- trackers    where metrics are shown -> ft.train

A field's description is the key's documentation. The sections (ft.spec.sections) know no YAML, no
old names and no positions.
"""

from __future__ import annotations

from typing import Any

from ft.spec.sections.adapter import AdapterSpec
from ft.spec.sections.data import (
    PREFERENCE_KEYS,
    DatasetSpec,
    DataSpec,
    MappingLayout,
    PreferenceMapping,
    PreferenceSpec,
)
from ft.spec.sections.model import ModelSpec, PrecisionSpec, SpecialTokens
from ft.spec.sections.section import Count, Section
from ft.spec.sections.trackers import TrackerName, TrackerSpec
from ft.spec.sections.training import (
    EvaluationSpec,
    Optimizers,
    OutputSpec,
    Schedules,
    TrainingSpec,
)

__all__ = [
    "PREFERENCE_KEYS",
    "AdapterSpec",
    "Count",
    "DataSpec",
    "DatasetSpec",
    "EvaluationSpec",
    "MappingLayout",
    "ModelSpec",
    "Optimizers",
    "OutputSpec",
    "PrecisionSpec",
    "PreferenceMapping",
    "PreferenceSpec",
    "RunSpec",
    "Schedules",
    "Section",
    "SpecialTokens",
    "TrackerName",
    "TrackerSpec",
    "TrainingSpec",
    "flat_keys",
    "sections_of_keys",
]


class RunSpec(Section):
    """One run, completely described."""

    model: ModelSpec
    precision: PrecisionSpec
    adapter: AdapterSpec
    data: DataSpec
    preference: PreferenceSpec = PreferenceSpec()
    training: TrainingSpec
    evaluation: EvaluationSpec
    output: OutputSpec
    trackers: TrackerSpec = TrackerSpec()


def flat_keys(spec: RunSpec) -> dict[str, Any]:
    """The spec as the dialect's flat mapping, defaults included: what resolved.yml holds."""
    nested = spec.model_dump(mode="json")
    return {key: value for section in nested.values() for key, value in section.items()}


def sections_of_keys() -> dict[str, str]:
    """Which section each top-level key of the dialect belongs to."""
    return {
        key: section
        for section, field in RunSpec.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    }

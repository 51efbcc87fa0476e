"""The YAML dialect: a file and overrides in, a frozen RunSpec out, or all mistakes at once."""

from ft.spec.load import LoadedSpec, dump_spec, load_spec
from ft.spec.nearest import nearest
from ft.spec.runspec import (
    AdapterSpec,
    DatasetSpec,
    DataSpec,
    EvaluationSpec,
    MappingLayout,
    ModelSpec,
    OutputSpec,
    PrecisionSpec,
    PreferenceMapping,
    RunSpec,
    SpecialTokens,
    TrainingSpec,
    flat_keys,
)

__all__ = [
    "AdapterSpec",
    "DataSpec",
    "DatasetSpec",
    "EvaluationSpec",
    "LoadedSpec",
    "MappingLayout",
    "ModelSpec",
    "OutputSpec",
    "PrecisionSpec",
    "PreferenceMapping",
    "RunSpec",
    "SpecialTokens",
    "TrainingSpec",
    "dump_spec",
    "flat_keys",
    "load_spec",
    "nearest",
]

"""The layouts that `type:` as a mapping describes, for pairs and for judged answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ft.data.formats import check_format
from ft.data.layout import Fields, optional_written_field, written_field
from ft.data.preference.records import Judged, Preference
from ft.data.preference.sources import is_desirable
from ft.runtime.errors import Problem, UserError
from ft.spec.nearest import nearest
from ft.spec.runspec import MappingLayout, PreferenceMapping


@dataclass(frozen=True)
class MappingKind:
    """What a mapping may say for one kind of record.

    Attributes:
        placeholders: Key of a format -> what fills it.
        fields: Keys that name fields.
        render: Lays out a record.
    """

    placeholders: dict[str, frozenset[str]]
    fields: frozenset[str]
    render: Callable[[Fields, PreferenceMapping], Preference | Judged]


def check_mapping(
    mapping: MappingLayout | PreferenceMapping, kind: MappingKind
) -> PreferenceMapping:
    """The mapping of a data set, once it is known to be of this kind.

    Raises:
        UserError: It has a key of another kind, or a format that can't be filled.
    """
    if isinstance(mapping, MappingLayout) and mapping.model_fields_set <= {"field_system"}:
        mapping = PreferenceMapping(**mapping.model_dump(exclude_unset=True))
    known = [*kind.fields, *kind.placeholders]
    for key in sorted(mapping.model_fields_set):
        if key not in known:
            guess = nearest(key, known)
            fix = f"did you mean {guess}?" if guess else f"use {', '.join(sorted(known))}"
            raise UserError(Problem(f"type: {key} lays out no record of this kind", fix=fix))
    assert isinstance(mapping, PreferenceMapping)  # the other kind has no other key in common
    for key, names in kind.placeholders.items():
        check_format(key, getattr(mapping, key), names)
    return mapping


def _prompt(record: Fields, mapping: PreferenceMapping) -> str:
    template = mapping.prompt_format or "{prompt}"
    system = optional_written_field(record, mapping.field_system) if "{system" in template else ""
    return template.format(system=system, prompt=written_field(record, mapping.field_prompt))


def _pair(record: Fields, mapping: PreferenceMapping) -> Preference:
    chosen = written_field(record, mapping.field_chosen)
    rejected = written_field(record, mapping.field_rejected)
    return Preference(
        _prompt(record, mapping),
        (mapping.chosen_format or "{chosen}").format(chosen=chosen),
        (mapping.rejected_format or "{rejected}").format(rejected=rejected),
    )


def _judged(record: Fields, mapping: PreferenceMapping) -> Judged:
    completion = written_field(record, mapping.field_completion)
    return Judged(
        _prompt(record, mapping),
        (mapping.completion_format or "{completion}").format(completion=completion),
        is_desirable(record, mapping.field_label),
    )


_PROMPT_NAMES = frozenset({"system", "prompt"})

PAIR_MAPPING = MappingKind(
    {
        "prompt_format": _PROMPT_NAMES,
        "chosen_format": frozenset({"chosen"}),
        "rejected_format": frozenset({"rejected"}),
    },
    frozenset({"field_system", "field_prompt", "field_chosen", "field_rejected"}),
    _pair,
)
JUDGED_MAPPING = MappingKind(
    {"prompt_format": _PROMPT_NAMES, "completion_format": frozenset({"completion"})},
    frozenset({"field_system", "field_prompt", "field_completion", "field_label"}),
    _judged,
)

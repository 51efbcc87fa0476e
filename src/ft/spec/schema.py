"""The dialect as a JSON Schema (draft 2020-12), for editors: completion, hints, red lines."""

from __future__ import annotations

from typing import Any

from ft.spec.dialect import MEANINGS, OFF
from ft.spec.key_table import Key, key_table
from ft.spec.reading import LISTS_THAT_TAKE_ONE
from ft.spec.runspec import DatasetSpec, RunSpec
from ft.spec.values import ASKS_FOR_NOTHING, NEVER, READ_AS

_Schema = dict[str, Any]
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> _Schema:
    """The schema of a whole file; flat, as the file is, though RunSpec has sections.

    Any key may be null, which means its default. Contradictions between keys are told by
    `ft validate`, not here.
    """
    sections = RunSpec.model_json_schema(by_alias=False)
    definitions = sections["$defs"]
    properties: _Schema = {}
    required: list[str] = []
    for name in (info.annotation.__name__ for info in RunSpec.model_fields.values()):  # type: ignore[union-attr]
        section = definitions.pop(name)
        properties |= section["properties"]
        required += section.get("required", [])
    for name, definition in definitions.items():
        prefix = _PREFIXES[name]
        definition["properties"] = _with_states(definition["properties"], prefix)
    for name in LISTS_THAT_TAKE_ONE:
        properties[name] = {**properties[name], "type": ["array", "string"]}
    return {
        "$schema": _DRAFT,
        "title": "ft",
        "description": "A run of ft: what is trained, on what, and how.",
        "type": "object",
        "properties": _with_states(_with_short_datasets(properties), ""),
        "required": required,
        "additionalProperties": False,
        "$defs": definitions,
    }


_PREFIXES = {
    DatasetSpec.__name__: "datasets.",
    "MappingLayout": "datasets.type.",
    "PreferenceMapping": "datasets.type.",
    "SpecialTokens": "special_tokens.",
}


def _with_short_datasets(properties: _Schema) -> _Schema:
    """An entry of `datasets` may be its path alone."""
    for name in ("datasets", "test_datasets"):
        items = {"anyOf": [properties[name]["items"], {"type": "string"}]}
        properties[name] = {**properties[name], "items": items}
    return properties


def _with_states(properties: _Schema, prefix: str) -> _Schema:
    """Working keys with their words; then old names, idle and unsupported keys."""
    described: _Schema = {}
    for key in key_table().values():
        name = key.name.removeprefix(prefix)
        if not key.name.startswith(prefix) or "." in name:
            continue
        if key.state == "works":
            if name not in properties:
                continue  # two kinds of mapping share a prefix
            described[name] = _working(properties[name], key, _other_values(name))
            for old in key.old_names:
                described[old.removeprefix(prefix)] = {
                    "description": f"Old name of {name}.",
                    "deprecated": True,
                }
        elif key.state == "no effect":
            description = f"No effect here: {key.sentence}."
            described[name] = {"description": description, "deprecated": True}
        else:
            description = f"Not supported: {key.instead}."
            off = [value for value in OFF if not isinstance(value, tuple)]
            values = {} if name in ASKS_FOR_NOTHING else {"enum": off}
            described[name] = {"description": description, "deprecated": True, **values}
    return described


def _other_values(name: str) -> list[Any]:
    """Values that are read as others."""
    return [*MEANINGS.get(name, {}), *READ_AS.get(name, {}), *([0] if name in NEVER else [])]


def _working(schema: _Schema, key: Key, other_values: list[Any]) -> _Schema:
    """A key's own schema, null allowed, with the description first."""
    rest = {name: value for name, value in schema.items() if name not in ("title", "description")}
    default = {"default": rest.pop("default")} if "default" in rest else {}
    branches = rest.pop("anyOf") if set(rest) == {"anyOf"} else [rest]
    branches = [each for branch in branches for each in branch.get("oneOf", [branch])]
    if not key.is_required and {"type": "null"} not in branches:
        branches = [*branches, {"type": "null"}]
    if other_values:
        branches = [*branches, {"enum": other_values}]
    unit = f" Unit: {key.unit}." if key.unit else ""
    words = {"description": key.sentence + unit}
    kind = branches[0] if len(branches) == 1 else {"anyOf": branches}
    return {**words, **kind, **default}

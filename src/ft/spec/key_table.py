"""Every key of the dialect in one table, for `ft explain`, `ft schema` and docs/keys.md.

Nothing is written twice: names, types, defaults and sentences come from ``runspec``, old names and
the keys that do not work from ``dialect``. What validation accepts is therefore what is told here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ft.runtime.errors import Problem, UserError
from ft.spec import dialect
from ft.spec.nearest import nearest
from ft.spec.runspec import (
    DatasetSpec,
    MappingLayout,
    PreferenceMapping,
    RunSpec,
    SpecialTokens,
)

State = Literal["works", "no effect", "not supported"]

_UNITS = {
    "sequence_len": "tokens",
    "min_sample_len": "tokens",
    "val_set_size": "share of records; over 1: records",
    "max_drop": "share of records",
    "micro_batch_size": "records a process",
    "gradient_accumulation_steps": "passes a step",
    "num_epochs": "passes over the data",
    "max_steps": "optimizer steps",
    "warmup_steps": "optimizer steps; below 1: share of all steps",
    "cosine_min_lr_ratio": "share of learning_rate",
    "cosine_constant_lr_ratio": "share of all steps",
    "warmup_ratio": "share of all steps",
    "eval_steps": "optimizer steps; below 1: share of all steps",
    "save_steps": "optimizer steps; below 1: share of all steps",
    "logging_steps": "optimizer steps",
    "evals_per_epoch": "evaluations an epoch",
    "saves_per_epoch": "checkpoints an epoch",
    "eval_batch_size": "records a process",
    "early_stopping_patience": "evaluations",
    "save_total_limit": "checkpoints",
    "lora_dropout": "share of inputs",
    "lora_r": "dimensions",
    "init_r": "dimensions",
    "tinit": "optimizer steps; below 1: share of all steps",
    "tfinal": "optimizer steps; below 1: share of all steps",
    "deltaT": "optimizer steps",
    "num_virtual_tokens": "tokens",
    "adapter_len": "tokens",
}


@dataclass(frozen=True)
class Key:
    """One key, as a user should know it."""

    name: str
    """With the keys above it: ``lora_r``, ``datasets.path``, ``datasets.type.format``."""
    section: str
    """The section of RunSpec that holds it, or the key above it; ``""`` for a key without one."""
    state: State
    sentence: str
    """What it does; for a key without effect, why it has none."""
    type: str = ""
    """In words: ``whole number, at least 1``."""
    default: Any = None
    is_required: bool = False
    unit: str = ""
    values: tuple[str, ...] = ()
    """The words it takes, as they are written in YAML; empty if there is no fixed set."""
    old_names: tuple[str, ...] = ()
    instead: str = ""
    """What to do where it is not supported."""

    @property
    def default_in_words(self) -> str:
        """The default as it is written in YAML; ``required`` and ``none`` where there is none."""
        if self.is_required:
            return "required"
        if self.default is None or self.default == () or self.default == {}:
            return "none"
        return _in_yaml(self.default)


@cache
def key_table() -> Mapping[str, Key]:
    """Every key by its name: the ones that work in the order of RunSpec, then the others."""
    return {key.name: key for key in _keys()}


@cache
def old_names() -> Mapping[str, str]:
    """Old name -> name today, with the keys above it."""
    return {old: key.name for key in key_table().values() for old in key.old_names}


def find_keys(name: str) -> list[Key]:
    """The keys that a name stands for.

    Args:
        name: A key, an old name, an option (``--lora-r``), a key inside a data set with or without
            the keys above it, a section (``training``) or a beginning (``lora``).

    Raises:
        UserError: there is no such key; names the nearest one.
    """
    table = key_table()
    wanted = _without_indices(name)
    wanted = old_names().get(wanted, wanted)
    if wanted in table:
        inside = [key for key in table.values() if key.name.startswith(f"{wanted}.")]
        return [table[wanted], *inside]
    endings = [
        key
        for key in table.values()
        if any(name.endswith(f".{wanted}") for name in (key.name, *key.old_names))
    ]
    group = [key for key in table.values() if key.section == wanted]
    beginning = [key for key in table.values() if key.name.startswith(f"{wanted.rstrip('_')}_")]
    if found := endings or group or beginning:
        return found
    names = [*table, *old_names()]
    guess = nearest(wanted, [*names, *(name.rsplit(".", 1)[-1] for name in names)])
    fix = f"did you mean {guess}?" if guess else "`ft explain` lists every key"
    raise UserError(Problem(f"there is no key {name!r}", fix=fix))


def _without_indices(name: str) -> str:
    """``--datasets.0.path`` and ``test_datasets[].path`` as ``datasets.path``."""
    plain = name.removeprefix("--").replace("-", "_").replace("[]", "")
    parts = [part for part in plain.split(".") if not part.isdigit()]
    if parts[0] == "test_datasets" and len(parts) > 1:
        parts[0] = "datasets"
    return ".".join(parts)


# -- where keys come from -----------------------------------------------------------------------


def _keys() -> Iterator[Key]:
    for section, info in RunSpec.model_fields.items():
        yield from _working_keys(info.annotation, section, "", dialect.RENAMED)
    yield from _working_keys(DatasetSpec, "datasets", "datasets.", dialect.RENAMED_IN_DATASETS)
    for mapping in (MappingLayout, PreferenceMapping):
        yield from _working_keys(mapping, "datasets.type", "datasets.type.", {})
    yield from _working_keys(SpecialTokens, "special_tokens", "special_tokens.", {})
    for name, why in dialect.NO_EFFECT.items():
        yield Key(name, "", "no effect", why)
    for section, table in (
        ("", dialect.NOT_SUPPORTED),
        ("datasets", dialect.NOT_SUPPORTED_IN_DATASETS),
    ):
        for name, instead in table.items():
            full = f"{section}.{name}" if section else name
            yield Key(full, section, "not supported", "Not supported here.", instead=instead)


def _working_keys(
    model: Any, section: str, prefix: str, renames: Mapping[str, dialect.Rename]
) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        if not prefix and name in dialect.PREVIEWED:
            yield _previewed_key(name, section, info)
            continue
        yield Key(
            name=prefix + name,
            section=section,
            state="works",
            sentence=info.description or "",
            type=_type_in_words(info),
            default=None if info.is_required() else info.get_default(call_default_factory=True),
            is_required=info.is_required(),
            unit=_UNITS.get(prefix + name, ""),
            values=tuple(_values_of(info.annotation)),
            old_names=tuple(prefix + old for old, today in renames.items() if today.new == name),
        )


def _previewed_key(name: str, section: str, info: FieldInfo) -> Key:
    """A typed key that no training knows yet."""
    sentence, default = info.description or "", info.get_default(call_default_factory=True)
    instead = dialect.PREVIEWED[name]
    return Key(name, section, "not supported", sentence, default=default, instead=instead)


# -- types in words -----------------------------------------------------------------------------

_PLAIN_TYPES: dict[Any, str] = {
    bool: "true or false",
    str: "text",
    int: "whole number",
    float: "number",
}
_BOUNDS = {"ge": "at least", "gt": "over", "le": "at most", "lt": "under"}


def _type_in_words(info: FieldInfo) -> str:
    words = _words_of(info.annotation)
    return ", ".join([words, *_bounds(info.metadata)])


def _words_of(annotation: Any) -> str:
    """A type annotation as a person says it; null is left out, since any key may be null."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([_words_of(parts[0]), *_bounds(parts[1:])])
    if origin in (UnionType, Union):
        words = [_words_of(part) for part in parts if part is not type(None)]
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return "false" if parts == (False,) else "one of the values"
    if origin is tuple:
        return f"list of {_plural(parts[0])}"
    if origin is dict:
        return "mapping"
    return _PLAIN_TYPES.get(annotation, "mapping")


def _plural(annotation: Any) -> str:
    return {str: "texts", DatasetSpec: "data sets"}.get(annotation, "values")


def _bounds(metadata: Any) -> Iterator[str]:
    for constraint in metadata:
        if isinstance(constraint, FieldInfo):
            yield from _bounds(constraint.metadata)
        for attribute, words in _BOUNDS.items():
            limit = getattr(constraint, attribute, None)
            if limit is not None:
                yield f"{words} {'2^63' if limit == 2**63 else format(limit, 'g')}"
        if getattr(constraint, "min_length", None):
            yield f"at least {constraint.min_length}"


def _values_of(annotation: Any) -> Iterator[str]:
    """The words of every Literal in an annotation."""
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if isinstance(value, str))
    elif get_origin(annotation) in (UnionType, Union, Annotated):
        for part in get_args(annotation):
            yield from _values_of(part)


def _in_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, BaseModel):
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, str) and (value != value.strip() or not value or "{" in value):
        return f'"{value}"'
    return str(value)

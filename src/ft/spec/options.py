"""Overrides from the command line: `--lora-r 16` speaks louder than the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec import dialect
from ft.spec.document import KeyPath, parse_scalar
from ft.spec.runspec import (
    DatasetSpec,
    MappingLayout,
    PreferenceMapping,
    RunSpec,
    SpecialTokens,
    sections_of_keys,
)
from ft.spec.secrets import names_a_secret


class Options:
    """Sets values of a file from options, and remembers which came from where."""

    def __init__(
        self, values: dict[str, Any], problem: Callable[[KeyPath, str, str], None]
    ) -> None:
        self.values = values
        self.problem = problem
        self.given: dict[KeyPath, str] = {}
        """The option, as typed, behind each value."""

    def apply(self, arguments: Sequence[str]) -> None:
        """Sets what the arguments say."""
        for option, text in _split_arguments(arguments):
            key_path = tuple(
                int(part) if part.isascii() and part.isdigit() else part.replace("-", "_")
                for part in option.removeprefix("--").split(".")
            )
            self.given[key_path] = option
            try:
                value = self._value_of_option(key_path, text)
            except UserError as error:
                self.problem(key_path, error.problems[0].what, error.problems[0].fix)
                continue
            self._displace(key_path, value)
            self._assign(key_path, value, option)

    def _value_of_option(self, key_path: KeyPath, text: str | None) -> Any:
        """An option's value: a text as it was typed where the key wants one, else read as YAML."""
        if text is None:
            return True
        name = str(key_path[-1])
        if name in _TEXT_KEYS or names_a_secret(name, EVERY_NAME):
            if not text:
                raise UserError("the value is empty")
            return None if text == "null" else text
        return parse_scalar(text)

    def _displace(self, key_path: KeyPath, value: Any) -> None:
        """An option speaks louder than the file, by whatever name the file says otherwise."""
        container: Any = self.values
        for part in key_path[:-1]:
            try:
                container = container[part]
            except (KeyError, IndexError, TypeError):
                return
        if not isinstance(container, dict):
            return
        renames = dialect.RENAMED if len(key_path) == 1 else dialect.RENAMED_IN_DATASETS
        for old, rename in renames.items():
            if rename.new == key_path[-1]:
                container.pop(old, None)
        for rival in dialect.RIVALS.get(str(key_path[-1]), ()):
            if value and (rival,) not in self.given:
                container.pop(rival, None)

    def _assign(self, key_path: KeyPath, value: Any, option: str) -> None:
        target: Any = self.values
        for part, following in pairwise(key_path):
            if isinstance(part, int) and isinstance(target, list) and part == len(target):
                target.append({})
            if isinstance(target, dict) and target.get(str(part)) is None and isinstance(part, str):
                target[part] = [] if isinstance(following, int) else {}
            try:
                target = target[part]
            except (KeyError, IndexError, TypeError):
                self.problem(key_path, f"there is no {part!r} to set it in", "")
                return
        last = key_path[-1]
        if isinstance(last, str) and isinstance(target, dict):
            target[last] = value
        elif isinstance(last, int) and isinstance(target, list) and last <= len(target):
            target[last:] = [value, *target[last + 1 :]]
        else:
            self.problem(key_path, "there is nothing to set it in", "")


def _split_arguments(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """``--key value``, ``--key=value``, ``--flag`` -> pairs; negative numbers are values."""
    pairs: list[tuple[str, str | None]] = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise UserError(
                Problem(
                    f"unexpected argument {option!r}",
                    fix="an override is --key value, e.g. --lora-r 16",
                )
            )
        if "=" in option:
            option, text = option.split("=", 1)
            pairs.append((option, text))
        elif rest and not rest[0].startswith("--"):
            pairs.append((option, rest.pop(0)))
        else:
            pairs.append((option, None))
    return pairs


GROUPS = (MappingLayout, PreferenceMapping, SpecialTokens)
"""Keys that stand below another key."""


def _text_keys() -> set[str]:
    """Keys whose value is a text and nothing else, for which the command line needs no quotes."""
    keys: set[str] = set()
    models = [field.annotation for field in RunSpec.model_fields.values()]
    for model in (*models, DatasetSpec, *GROUPS):
        for key, field in model.model_fields.items():  # type: ignore[union-attr]
            if field.annotation in (str, str | None):
                keys.add(key)
    return keys


_TEXT_KEYS = _text_keys()
EVERY_NAME = {
    *sections_of_keys(),
    *(key for model in (DatasetSpec, *GROUPS) for key in model.model_fields),
    *(dialect.RENAMED | dialect.RENAMED_IN_DATASETS),
    *(dialect.NO_EFFECT | dialect.NOT_SUPPORTED | dialect.NOT_SUPPORTED_IN_DATASETS),
}
"""Every name that means something here."""

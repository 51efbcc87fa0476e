"""What pydantic found wrong with a value, in a user's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ft.runtime.errors import UserError
from ft.spec.document import KeyPath, parse_scalar
from ft.spec.nearest import nearest
from ft.spec.secrets import hide

_LONGEST = 2000
"""Characters of a value that are searched for secrets; fewer are shown."""
_UNION_MEMBERS = {"str", "bool", "int", "float", "MappingLayout", "PreferenceMapping"}


def errors_by_key(error: ValidationError, *, skip: int = 1) -> dict[KeyPath, list[ErrorDetails]]:
    """The errors of each key; pydantic reports each member of a union that it tried by itself.

    Args:
        error: What pydantic raised.
        skip: Parts of each place to leave out at the front: the section of RunSpec.
    """
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        key_path = tuple(
            part
            for part in detail["loc"][skip:]
            if isinstance(part, int) or (part.isidentifier() and part not in _UNION_MEMBERS)
        )
        grouped.setdefault(key_path, []).append(detail)
    # Where something inside failed, what pydantic says of the whole only repeats it.
    return {
        path: details
        for path, details in grouped.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in grouped)
    }


_PLAIN_WORDS = {
    "bool_type": "true or false",
    "string_type": "a text",
    "float_type": "a number",
    "int_type": "a whole number",
    "tuple_type": "a list",
    "too_short": "a list with at least one entry",
    "dict_type": "`key: value` lines",
    "string_pattern_mismatch": "owner/name on the hub",
    "model_type": "`key: value` lines",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("a number over", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("a number under", "lt"),
}


def mismatch(details: Sequence[ErrorDetails]) -> str:
    """What was got and what would be right: ``got 'many', expected a whole number``."""
    expected = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    return f"got {_short(details[0]['input'])}, expected {expected}"


def _expected(detail: ErrorDetails) -> str:
    if detail["type"] in _BOUNDS:
        words, limit = _BOUNDS[detail["type"]]
        return f"{words} {detail['ctx'][limit]:g}"
    if detail["type"] == "literal_error" and detail["ctx"]["expected"] == "False":
        return "false"
    message = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _PLAIN_WORDS.get(detail["type"], message)


def fix_of_value(key_path: KeyPath, details: Sequence[ErrorDetails]) -> str:
    """The allowed value that a mistyped one most likely meant, or how to write what was meant."""
    given = details[0]["input"]
    kinds = {detail["type"] for detail in details}
    if (
        isinstance(given, str)
        and kinds & {"int_type", "float_type", "bool_type"}
        and _is_quoted(given)
    ):
        return "remove the quotes"
    if "tuple_type" in kinds and key_path[-1] in ("datasets", "test_datasets"):
        return "begin each data set with `- `: a list, even if there is one only"
    literals = [detail for detail in details if detail["type"] == "literal_error"]
    for detail in literals:
        allowed = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        if isinstance(given, str) and (guess := nearest(given, allowed)):
            return f"did you mean {guess}?"
    names = [str(part) for part in key_path if not isinstance(part, int)]
    return f"ft explain {'.'.join(names)} says more" if literals else ""


def _is_quoted(text: str) -> bool:
    """Whether a text would be a number or a flag without its quotes."""
    try:
        return isinstance(parse_scalar(text), int | float)
    except UserError:
        return False


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = hide(repr(list(value) if isinstance(value, tuple) else value)[:_LONGEST])
    return text if len(text) <= 60 else text[:57] + "..."

"""The formats that a `type:` as a mapping gives, in the language of `str.format`."""

from __future__ import annotations

import string
from collections.abc import Collection

from ft.runtime.errors import Problem, UserError

_BRACE = "a brace as text is doubled: {{"


def check_format(key: str, text: str, names: Collection[str]) -> None:
    """Finds what would fail when the first record is laid out.

    Args:
        key: The key of the mapping, as the message calls it.
        text: Its format.
        names: What fills the format.

    Raises:
        UserError: It can't be parsed, or has a placeholder that nothing fills.
    """
    try:
        found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise UserError(Problem(f"type: {key}: {error}", source=text, fix=_BRACE)) from None
    if unknown := sorted(found.difference(names)):
        allowed = ", ".join(f"{{{name}}}" for name in sorted(names))
        what = f"type: {key}: nothing fills {{{unknown[0]}}}"
        raise UserError(Problem(what, source=text, fix=f"use {allowed}; {_BRACE}"))

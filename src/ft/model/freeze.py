"""Full fine-tuning of some parameters: those that `unfrozen_parameters` names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.nearest import nearest

_ROWS = re.compile(r".+\[\d*:?\d*\]")


def freeze_all_but(model: Any, patterns: Sequence[str]) -> None:
    """Leaves trainable what a pattern matches, and freezes the rest, in place.

    Args:
        model: The model.
        patterns: Regular expressions that match a parameter's name from its beginning; a dot that
            no `+` follows is a dot, as in axolotl. In `model.layers.1[0-9].*` the last dot and star
            are therefore any number of dots, which changes nothing at the end.

    Raises:
        UserError: a pattern is none, names rows of a matrix, or matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    matched: set[str] = set()
    for index, pattern in enumerate(patterns):
        found = {name for name in names if _compiled(pattern, index).match(name)}
        if not found:
            guess = nearest(pattern, names)
            fix = f"parameters here are named like {guess or names[0]}"
            raise UserError(
                Problem(
                    f"{pattern!r} matches no parameter", f"unfrozen_parameters.{index}", fix=fix
                )
            )
        matched |= found
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in matched)


def _compiled(pattern: str, index: int) -> re.Pattern[str]:
    where = f"unfrozen_parameters.{index}"
    if _ROWS.fullmatch(pattern):
        fix = "name the whole parameter"
        raise UserError(
            Problem(f"{pattern!r} names rows, which train only together", where, fix=fix)
        )
    try:
        return re.compile(re.sub(r"\.(?!\+)", r"\.", pattern))
    except re.error as error:
        fix = "write a regular expression, or a name's beginning"
        raise UserError(Problem(f"{pattern!r}: {error}", where, fix=fix)) from error

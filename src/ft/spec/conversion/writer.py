"""Our keys as a YAML file for people: in a sensible order, with comments, in plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import yaml

from ft.runtime.errors import UserError
from ft.spec.document import parse_scalar
from ft.spec.runspec import RunSpec, sections_of_keys

_SECTIONS = (
    ("model", "The model that is tuned"),
    ("data", "The records that it learns from"),
    ("adapter", "What is trained"),
    ("training", "How it learns"),
    ("precision", ""),
    ("evaluation", "How it is measured while it learns"),
    ("output", "What is left behind"),
    ("trackers", "Where metrics are shown besides"),
)
"""Section of RunSpec -> its heading; one without follows the section above it."""

_COMMENT_COLUMN = 40
_LINE_WIDTH = 100
_LONGEST_NUMBER = 10


@dataclass(frozen=True)
class Setting:
    """A value with a remark for whoever reads the file."""

    value: Any
    """May hold further settings inside its lists and mappings."""
    comment: str = ""


def write_yaml(settings: Mapping[str, Setting], header: Sequence[str] = ()) -> str:
    """The text of a config.

    Args:
        settings: Key of the dialect -> its value and remark.
        header: Lines that go on top, as comments.
    """
    section_of = sections_of_keys()
    lines = [f"# {line}".rstrip() for line in header]
    for section, heading in _SECTIONS:
        order = list(RunSpec.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]
        keys = [key for key in order if key in settings and section_of[key] == section]
        if not keys:
            continue
        if heading:
            lines += ["", f"# {heading}"] if lines else [f"# {heading}"]
        for key in keys:
            lines += _entry(key, settings[key], "")
    return "\n".join(lines) + "\n"


def _entry(key: str, given: Any, indent: str) -> Iterator[str]:
    """`key: value` in as many lines as it takes, its remark behind it or above it."""
    setting = given if isinstance(given, Setting) else Setting(given)
    value = setting.value
    if isinstance(value, str) and _fits_a_block(value):
        yield from _remark_above(setting.comment, indent)
        yield f"{indent}{_scalar(key)}: |-"
        yield from (f"{indent}  {line}" for line in value.split("\n"))
    elif isinstance(value, dict) and value:
        yield from _remark_above(setting.comment, indent)
        yield f"{indent}{_scalar(key)}:"
        for name, inner in value.items():
            yield from _entry(name, inner, f"{indent}  ")
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        yield from _remark_above(setting.comment, indent)
        yield f"{indent}{_scalar(key)}:"
        for item in value:
            yield from _item(item, f"{indent}  ")
    else:
        yield from _with_remark(f"{indent}{_scalar(key)}: {_scalar(value)}", setting.comment)


def _item(item: Any, indent: str) -> Iterator[str]:
    if not isinstance(item, dict):
        yield f"{indent}- {_scalar(item)}"
        return
    mark = "- "
    for key, value in item.items():
        for line in _entry(key, value, f"{indent}  "):
            is_remark = line.lstrip().startswith("#")
            yield line if is_remark or not mark else f"{indent}{mark}{line[len(indent) + 2 :]}"
            mark = mark if is_remark else ""


def _with_remark(line: str, comment: str) -> Iterator[str]:
    together = f"{line:<{_COMMENT_COLUMN}} # {comment}"
    if comment and "\n" not in comment and len(together) <= _LINE_WIDTH:
        yield together
        return
    yield from _remark_above(comment, line[: len(line) - len(line.lstrip())])
    yield line


def _remark_above(comment: str, indent: str) -> Iterator[str]:
    yield from (f"{indent}# {line}".rstrip() for line in comment.splitlines())


def _fits_a_block(text: str) -> bool:
    lines = text.split("\n")
    return (
        len(lines) > 2
        and all(line == line.rstrip() and line.isprintable() for line in lines)
        and not text.startswith((" ", "\n"))
        and not text.endswith("\n")
    )


def _scalar(value: Any) -> str:
    """A value in one line, such that our reader gives it back."""
    if isinstance(value, Setting):
        return _scalar(value.value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_in_a_list(item) for item in value)}]"
    if not isinstance(value, str):
        return yaml.safe_dump(value, default_flow_style=True, width=10**9).split("\n")[0]
    plain = _dumped(value, None)
    return plain if "\n" not in plain and _reads_back(plain, value) else _dumped(value, '"')


def _in_a_list(item: Any) -> str:
    text = _scalar(item)
    return text if not isinstance(item, str) or _reads_back(f"[{text}]", [item]) else _quoted(item)


def _quoted(text: str) -> str:
    return _dumped(text, '"')


def _dumped(text: str, style: str | None) -> str:
    dumped = yaml.safe_dump(text, default_style=style, width=10**9, allow_unicode=True)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _reads_back(text: str, value: Any) -> bool:
    try:
        return bool(parse_scalar(text) == value)
    except UserError:
        return False


def _number(value: float) -> str:
    """0.00002 rather than 2.0e-05, which half of all readers take for a text."""
    if value == int(value) and abs(value) < 10**15:
        return str(int(value))
    plain = format(Decimal(repr(value)), "f")
    return plain if len(plain) <= _LONGEST_NUMBER else repr(value)

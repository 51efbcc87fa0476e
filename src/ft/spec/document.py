"""A YAML file as plain values, and where each of them stands.

PyYAML composes the file into nodes that know their line and column; we turn the nodes into values
ourselves, so that duplicate keys are seen (PyYAML keeps the last in silence) and ``2e-4`` is the
number that everybody means (YAML 1.1 wants ``2.0e-4`` and reads a string).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ft.runtime.errors import Problem, UserError

KeyPath = tuple[str | int, ...]
_INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_REPLACED_TAGS = {_INT, _FLOAT, _TIMESTAMP}
MAX_NODES = 100_000  # an alias bomb has more; the largest real config has a few hundred


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: ``2e-4`` is one, ``010`` is ten, ``1:30`` is a text.

    Its resolvers are its own; PyYAML's stay as they are.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to hold them
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+(_[0-9]+)*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, lambda loader, node: int(node.value, 10))
_Loader.add_constructor(_FLOAT, lambda loader, node: float(node.value))


@dataclass(frozen=True)
class Document:
    """The values of a YAML file with their places."""

    path: Path
    values: dict[str, Any]
    lines: tuple[str, ...]
    positions: dict[KeyPath, tuple[int, int]] = field(repr=False)

    def problem(self, key_path: KeyPath, what: str, fix: str = "") -> Problem:
        """A problem placed at the key, or at the nearest one above it that the file holds."""
        while key_path and key_path not in self.positions:
            key_path = key_path[:-1]
        line, column = self.positions.get(key_path, (1, 1))
        source = self.lines[line - 1] if line <= len(self.lines) else ""
        return Problem(what, f"{self.path}:{line}:{column}", source.strip(), fix)


def parse_scalar(text: str) -> Any:
    """One command-line value, read as YAML would: ``2e-4``, ``true``, ``[q_proj, v_proj]``.

    Raises:
        UserError: the text is no YAML value.
    """
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except (yaml.YAMLError, RecursionError, TypeError):
        raise UserError(Problem(f"{text!r} is no YAML value", fix=_VALUES_AS_TYPED)) from None


_VALUES_AS_TYPED = "a list is typed '[a, b]', a mapping '{a: b}', with the quotes"


def read_document(path: Path) -> Document:
    """Reads a YAML file whose root is a mapping.

    Raises:
        UserError: no such file, not UTF-8, broken YAML, duplicate keys, an empty file, no mapping.
    """
    text = _read_text(path)
    lines = tuple(text.splitlines())
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            raise UserError(Problem("the file is empty", f"{path}:1:1", fix=_STARTING_POINT))
        if not isinstance(root, yaml.MappingNode):
            kind = "a list" if isinstance(root, yaml.SequenceNode) else "a text"
            where = f"{path}:{root.start_mark.line + 1}:{root.start_mark.column + 1}"
            raise UserError(
                Problem(
                    f"expected `key: value` lines, got {kind}",
                    where,
                    lines[root.start_mark.line].strip() if lines else "",
                    _STARTING_POINT,
                )
            )
        walk = _Walk(path, lines, loader)
        values = walk.value_of(root, ())
    except yaml.YAMLError as error:
        raise UserError(_syntax_problem(path, lines, error)) from None
    except RecursionError:
        raise UserError(Problem("is nested too deeply, or in itself", str(path))) from None
    if walk.problems:
        raise UserError(*walk.problems)
    return Document(path, values, lines, walk.positions)


_STARTING_POINT = "a config starts with `base_model: NAME` and `datasets:`; see configs/sql.yml"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = (
            sorted(p.name for p in path.parent.glob("*.y*ml"))[:5] if path.parent.is_dir() else []
        )
        fix = f"YAML files there: {', '.join(beside)}" if beside else "check the path"
        raise UserError(Problem("no such file", str(path), fix=fix)) from None
    except IsADirectoryError:
        fix = "name a YAML file in it"
        raise UserError(Problem("is a folder, not a YAML file", str(path), fix=fix)) from None
    except UnicodeDecodeError as error:
        raise UserError(
            Problem(f"is not UTF-8 text (byte {error.start})", str(path), fix="save it as UTF-8")
        ) from None
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", str(path))) from None


_SYNTAX = (
    # what PyYAML says; in our words; what to do; whether the fault stands where the trouble began
    ("cannot start any token", "a tab or a sign that must be quoted", "", False),
    ("expected ',' or ']'", "a `[` without its `]`", "close the list with `]`", True),
    ("expected ',' or '}'", "a `{` without its `}`", "close the mapping with `}`", True),
    ("could not find expected ':'", "a line without `: `", "write `key: value`", True),
    ("expected <block end>", "a line that does not fit those above", "indent it as they are",
     False),
    ("mapping values are not allowed", "a second `: ` in one line, or a line indented too far",
     "put a value that holds `: ` in quotes", False),
    ("unexpected end of stream", "a quote without its end", "close the quote", True),
    ("could not determine a constructor", "a tag (`!...`), which is never followed",
     "write the value without it", False),
)  # fmt: skip


def _syntax_problem(path: Path, lines: tuple[str, ...], error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or str(error)
    if mark is None:
        return Problem(f"not valid YAML: {said}", str(path))
    what, fix, begins_there = next(
        ((words, fix, begins) for part, words, fix, begins in _SYNTAX if part in said),
        (said, "", False),
    )
    mark = (getattr(error, "context_mark", None) or mark) if begins_there else mark
    source = lines[mark.line] if mark.line < len(lines) else ""
    fix = "indent with spaces, not tabs" if "\t" in source else fix
    where = f"{path}:{mark.line + 1}:{mark.column + 1}"
    return Problem(f"not valid YAML: {what}", where, source.replace("\t", "→"), fix)


class _Walk:
    """Turns nodes into values, noting positions and duplicate keys on the way."""

    def __init__(self, path: Path, lines: tuple[str, ...], loader: _Loader) -> None:
        self.path = path
        self.lines = lines
        self.loader = loader
        self.positions: dict[KeyPath, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.num_nodes = 0

    def value_of(self, node: yaml.Node, key_path: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise UserError(Problem(f"more than {MAX_NODES} values (aliases?)", str(self.path)))
        self.positions.setdefault(key_path, _position(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key_path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(item, (*key_path, i)) for i, item in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, key_path: KeyPath) -> dict[str, Any]:
        self._find_duplicates(node)
        self.loader.flatten_mapping(node)  # merge keys: <<: *defaults; the node's own come last
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*key_path, key)
            self.positions[here] = _position(key_node)
            values[key] = self.value_of(value_node, here)
        return values

    def _find_duplicates(self, node: yaml.MappingNode) -> None:
        first_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            line, column = _position(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                where = f"{self.path}:{line}:{column}"
                raise UserError(
                    Problem("a key must be a text", where, self.lines[line - 1].strip())
                )
            first_line = first_lines.get(key_node.value)
            first_lines.setdefault(key_node.value, line)
            if first_line is not None:
                self.problems.append(
                    Problem(
                        f"duplicate key {key_node.value!r}, first given in line {first_line}",
                        f"{self.path}:{line}:{column}",
                        self.lines[line - 1].strip(),
                        "keep one of them",
                    )
                )


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1

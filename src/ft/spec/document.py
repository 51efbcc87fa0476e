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
_VALUE, _MERGE = "tag:yaml.org,2002:value", "tag:yaml.org,2002:merge"
_REPLACED_TAGS = {_INT, _FLOAT, _TIMESTAMP, _VALUE}
_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}

MAX_BYTES = 250_000
"""A real config has some thousand; what has more is another file, named by mistake."""
MAX_NODES = 20_000
"""An alias bomb has more; the largest real config has a few hundred values."""
MAX_DEPTH = 50
_SOURCE_WIDTH, _WHAT_WIDTH = 160, 1000
"""Characters of a file's line, and of a fault, that are shown."""


class _LimitError(yaml.MarkedYAMLError):
    """Valid YAML that is too much of something."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: ``2e-4`` is one, ``010`` is ten, ``1:30`` is a text.

    Its resolvers are its own; PyYAML's stay as they are.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way to hold them
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """PyYAML's own, within limits: it recurses, and takes a second for so many values."""
        self._num_nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._num_nodes > MAX_NODES:
            raise _too_many(mark)
        if self._depth > MAX_DEPTH:
            raise _too_deep(mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: yaml.Mark) -> list[str]:
        """PyYAML's own; it lets an escape pass that stands for no character."""
        try:
            chunks: list[str] = super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError):
            raise yaml.scanner.ScannerError(
                problem="an escape that stands for no character",
                problem_mark=self.get_mark(),
            ) from None
        return chunks


_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9]+(_[0-9]+)*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"^[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, lambda loader, node: int(node.value, 10))
_Loader.add_constructor(_FLOAT, lambda loader, node: float(node.value))


def _too_many(mark: yaml.Mark) -> _LimitError:
    return _LimitError(problem=f"more than {MAX_NODES:,} values (aliases?)", problem_mark=mark)


def _too_deep(mark: yaml.Mark) -> _LimitError:
    what = f"is nested too deeply (over {MAX_DEPTH} levels), or in itself"
    return _LimitError(problem=what, problem_mark=mark)


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
        source = _source(self.lines, line)
        return Problem(_cut(what, _WHAT_WIDTH), f"{self.path}:{line}:{column}", source, fix)


def _source(lines: tuple[str, ...], line: int) -> str:
    """A line, counted from 1, as a problem shows it."""
    return _indented_source(lines, line).strip()


def _indented_source(lines: tuple[str, ...], line: int) -> str:
    """The same where the indentation may be the fault."""
    return _cut(lines[line - 1], _SOURCE_WIDTH) if 0 < line <= len(lines) else ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def parse_scalar(text: str) -> Any:
    """One command-line value, read as YAML would: ``2e-4``, ``true``, ``[q_proj, v_proj]``.

    Raises:
        UserError: the text is no YAML value.
    """
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except (yaml.YAMLError, *_UNREADABLE):
        what = f"{_cut(repr(text), _SOURCE_WIDTH)} is no YAML value"
        raise UserError(Problem(what, fix=_VALUES_AS_TYPED)) from None


_UNREADABLE = (ValueError, KeyError, AttributeError, TypeError)
"""What PyYAML lets through where a value does not fit its tag: ``!!int many``."""
_VALUES_AS_TYPED = "a list is typed '[a, b]', a mapping '{a: b}', with the quotes"


def read_document(path: Path) -> Document:
    """Reads a YAML file whose root is a mapping.

    Raises:
        UserError: no such file, not UTF-8, broken YAML, duplicate keys, an empty file, no mapping.
    """
    text = _read_text(path)
    lines = tuple(_LINE_BREAK.split(text))
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
                    _source(lines, root.start_mark.line + 1),
                    _STARTING_POINT,
                )
            )
        walk = _Walk(path, lines, loader)
        values = walk.value_of(root, ())
    except yaml.YAMLError as error:
        raise UserError(_syntax_problem(path, lines, error)) from None
    if walk.problems:
        raise UserError(*walk.problems)
    return Document(path, values, lines, walk.positions)


_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""YAML's own line breaks."""
_STARTING_POINT = "a config starts with `base_model: NAME` and `datasets:`; see configs/sql.yml"


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(Problem("is a device or a pipe, not a YAML file", str(path)))
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            what = f"is larger than any config: over {MAX_BYTES:,} bytes"
            raise UserError(Problem(what, str(path), fix="is it the right file?"))
        return raw.decode("utf-8-sig")
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
        before = _LINE_BREAK.split(error.object[: error.start].decode("utf-8-sig"))
        what = f"is not UTF-8 text (byte 0x{error.object[error.start]:02x})"
        where = f"{path}:{len(before)}:{len(before[-1]) + 1}"
        raise UserError(Problem(what, where, fix="save it as UTF-8")) from None
    except ValueError:  # a NUL in the name
        raise UserError(Problem("is no name of a file", repr(str(path)))) from None
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
    if isinstance(error, yaml.reader.ReaderError):
        return _forbidden_character(path, lines, error)
    if mark is None:
        return Problem(f"not valid YAML: {said}", str(path))
    what, fix, begins_there = next(
        ((words, fix, begins) for part, words, fix, begins in _SYNTAX if part in said),
        (said, "", False),
    )
    mark = (getattr(error, "context_mark", None) or mark) if begins_there else mark
    source = _indented_source(lines, mark.line + 1)
    fix = "indent with spaces, not tabs" if "\t" in source else fix
    where = f"{path}:{mark.line + 1}:{mark.column + 1}"
    prefix = "" if isinstance(error, _LimitError) else "not valid YAML: "
    return Problem(_cut(prefix + what, _WHAT_WIDTH), where, source.replace("\t", "→"), fix)


def _forbidden_character(
    path: Path, lines: tuple[str, ...], error: yaml.reader.ReaderError
) -> Problem:
    """NUL and its like: found before anything is parsed, so PyYAML knows no line."""
    code = error.character if isinstance(error.character, int) else ord(error.character)
    character = chr(code)
    number = next((n for n, line in enumerate(lines, start=1) if character in line), 1)
    column = lines[number - 1].find(character) + 1
    return Problem(
        f"not valid YAML: a character that no text has, U+{code:04X}",
        f"{path}:{number}:{max(column, 1)}",
        _source(lines, number),
        'delete it; or write it in double quotes, by its number: "\\x00"',
    )


_Entries = dict[str, tuple[yaml.ScalarNode, yaml.Node]]


def _unreadable(node: yaml.Node, what: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)


class _Walk:
    """Turns nodes into values, noting positions and duplicate keys on the way."""

    def __init__(self, path: Path, lines: tuple[str, ...], loader: _Loader) -> None:
        self.path = path
        self.lines = lines
        self.loader = loader
        self.positions: dict[KeyPath, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self.num_nodes = 0
        self.merged: dict[int, _Entries] = {}

    def value_of(self, node: yaml.Node, key_path: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise _too_many(node.start_mark)
        if len(key_path) > MAX_DEPTH:  # an alias of what it stands in
            raise _too_deep(node.start_mark)
        self.positions.setdefault(key_path, _position(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _PLAIN_TAGS:
            raise _unreadable(node, "could not determine a constructor")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key_path)
        return [self.value_of(item, (*key_path, i)) for i, item in enumerate(node.value)]

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.loader.construct_object(node)
        except _UNREADABLE:
            kind = node.tag.rpartition(":")[2]
            what = f"{_cut(repr(node.value), 60)} can't be read as {kind}"
            raise _unreadable(node, what) from None

    def _mapping(self, node: yaml.MappingNode, key_path: KeyPath) -> dict[str, Any]:
        self._find_duplicates(node)
        values: dict[str, Any] = {}
        for key, (key_node, value_node) in self._entries(node, ()).items():
            here = (*key_path, key)
            self.positions[here] = _position(key_node)
            values[key] = self.value_of(value_node, here)
        return values

    def _entries(self, node: yaml.MappingNode, inside: tuple[int, ...]) -> _Entries:
        """A mapping's own entries, behind those of its merge keys (``<<: *defaults``).

        PyYAML's own way repeats what is merged again and again, so a few lines fill the memory.
        """
        if id(node) in inside:
            raise _too_deep(node.start_mark)
        if id(node) in self.merged:
            return self.merged[id(node)]
        own: _Entries = {}
        inherited: _Entries = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _unreadable(key_node, "a key must be a text")
            if key_node.tag != _MERGE:
                own[str(key_node.value)] = (key_node, value_node)
                continue
            is_list = isinstance(value_node, yaml.SequenceNode)
            for source in value_node.value if is_list else [value_node]:
                if not isinstance(source, yaml.MappingNode):
                    raise _unreadable(source, "`<<` takes in a mapping, or a list of mappings")
                inherited = {**self._entries(source, (*inside, id(node))), **inherited}
        self.merged[id(node)] = {**inherited, **own}
        return self.merged[id(node)]

    def _find_duplicates(self, node: yaml.MappingNode) -> None:
        first_lines: dict[str, int] = {}
        for key_node, _ in node.value:
            line, column = _position(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                where = f"{self.path}:{line}:{column}"
                raise UserError(Problem("a key must be a text", where, _source(self.lines, line)))
            first_line = first_lines.get(key_node.value)
            first_lines.setdefault(key_node.value, line)
            if first_line is not None:
                self.problems.append(
                    Problem(
                        f"duplicate key {_cut(repr(key_node.value), 60)}, "
                        f"first given in line {first_line}",
                        f"{self.path}:{line}:{column}",
                        _source(self.lines, line),
                        "keep one of them",
                    )
                )


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1

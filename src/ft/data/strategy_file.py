"""Users' own strategies: Python files, found, checked without running them, and loaded.

def segments(record): ...            our own: a list of `Segment`s
def load(tokenizer, cfg): ...        axolotl's: an object with `tokenize_prompt`
def load(tokenizer, cfg, ds_cfg): ...
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.data import axolotl_shim
from ft.data.layouts import layout_names
from ft.runtime.errors import Problem, UserError

OWN_FUNCTION = "segments"
AXOLOTL_FUNCTION = "load"
FOLDER = "prompt_strategies"
_SOURCE_WIDTH = 160
"""Characters of a file's line that are shown."""


@dataclass(frozen=True)
class StrategySource:
    """A strategy file as it was found.

    Attributes:
        path: Where it was found.
        function: The function in it that is asked for; None = `segments`, else `load`.
        text: Its text.
        sha256: Of the file's bytes.
    """

    path: str
    function: str | None
    text: str
    sha256: str

    @property
    def entry(self) -> str:
        """The name of the function that makes the strategy.

        Raises:
            UserError: The file does not parse, or has no such function.
        """
        names, coroutines = self._names()
        wanted = [self.function] if self.function else [OWN_FUNCTION, AXOLOTL_FUNCTION]
        for name in wanted:
            if name in names:
                return name
            if name in coroutines:
                where = f"{self.path}:{coroutines[name]}"
                fix = f"write def {name}: records are laid out one after the other"
                raise UserError(
                    Problem(f"{name!r} is async, which is never awaited", where, fix=fix)
                )
        functions = [name for name, is_function in names.items() if is_function]
        nearest = difflib.get_close_matches(wanted[0], functions, n=1)
        raise UserError(
            Problem(
                f"no function {' or '.join(map(repr, wanted))} in the strategy file",
                where=self.path,
                fix=f"it has {', '.join(functions) or 'no functions'}"
                + (f"\nnearest: {nearest[0]}" if nearest else ""),
            )
        )

    def _parsed(self) -> ast.Module:
        try:
            return ast.parse(self.text, self.path)
        except SyntaxError as error:
            where = f"{self.path}:{error.lineno}:{error.offset}"
            source = (error.text or "")[:_SOURCE_WIDTH]
            raise UserError(Problem(f"SyntaxError: {error.msg}", where, source)) from None
        except (ValueError, RecursionError, MemoryError) as error:  # a NUL, or a sum without end
            what = f"is no Python that can be read: {error or type(error).__name__}"
            raise UserError(Problem(what, self.path)) from None

    def _names(self) -> tuple[dict[str, bool], dict[str, int]]:
        """Names that the top level binds, and whether to functions; and coroutines' lines."""
        names: dict[str, bool] = {}
        coroutines: dict[str, int] = {}
        tree = self._parsed()
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                names[node.name] = True
            elif isinstance(node, ast.AsyncFunctionDef):
                coroutines[node.name] = node.lineno
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names |= {alias.asname or alias.name: False for alias in node.names}
            elif isinstance(node, ast.Assign):
                names |= {each.id: False for each in node.targets if isinstance(each, ast.Name)}
        return names, coroutines


def find_source(type_name: str, base_dir: Path) -> StrategySource:
    """The file that `type:` names.

    Args:
        type_name: `./file.py`, `./file.py:function`, `name` or `name.function`.
        base_dir: The YAML's folder.

    Raises:
        UserError: There is no such file; says where it was looked for, and the nearest names.
    """
    candidates = list(_candidates(type_name, base_dir))
    for path, function in candidates:
        if path.is_file():
            raw = path.read_bytes()
            try:
                text = raw.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = raw.count(b"\n", 0, error.start) + 1
                where = f"{path}:{line}"
                raise UserError(Problem("not UTF-8", where, fix="save it as UTF-8")) from None
            return StrategySource(str(path), function, text, hashlib.sha256(raw).hexdigest())
    raise _not_found(type_name, [path for path, _ in candidates])


def is_file_name(type_name: str) -> bool:
    """Whether `type:` names a file, whatever the built-in layouts are called."""
    return type_name.startswith(("./", "../", "/", "~")) or _split_file(type_name)[0].endswith(
        ".py"
    )


def load(source: StrategySource) -> Callable[..., Any]:
    """Runs the file and gives the function that makes the strategy.

    Raises:
        UserError: The file raises; says what, and in which line.
    """
    entry = source.entry
    module = _run(source)
    function = getattr(module, entry)
    if not callable(function):
        raise UserError(Problem(f"{entry} is no function", where=source.path))
    return function  # type: ignore[no-any-return]


def num_parameters(function: Callable[..., Any]) -> int:
    """How many positional arguments a function takes; 3 for any number."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return 3
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in positional for kind in kinds)


def describe_error(error: BaseException, path: str) -> Problem:
    """An exception of a strategy file's code: what it says, and the file's own innermost line."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    where = f"{path}:{frames[-1].lineno}" if frames else path
    source = (frames[-1].line or "") if frames else ""
    what = type(error).__name__ + (f": {error}" if str(error) else "")
    return Problem(what, where, source)


def _candidates(type_name: str, base_dir: Path) -> Iterator[tuple[Path, str | None]]:
    if is_file_name(type_name):
        name, function = _split_file(type_name)
        path = Path(name).expanduser()
        folders = [Path()] if path.is_absolute() else _folders(base_dir, Path())
        yield from ((folder / path, function) for folder in folders)
        return
    parts = type_name.split(".")
    for folder in _folders(base_dir):
        yield folder.joinpath(*parts).with_suffix(".py"), None
        if len(parts) > 1:
            yield folder.joinpath(*parts[:-1]).with_suffix(".py"), parts[-1]


def _split_file(type_name: str) -> tuple[str, str | None]:
    name, separator, function = type_name.rpartition(":")
    return (name, function) if separator else (type_name, None)


def _folders(base_dir: Path, *further: Path) -> list[Path]:
    return [base_dir, Path(FOLDER), base_dir / FOLDER, *further]


def _not_found(type_name: str, paths: list[Path]) -> UserError:
    folders = list(dict.fromkeys(path.parent for path in paths))
    files = {file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.py")}
    wanted = Path(_split_file(type_name)[0]).stem if is_file_name(type_name) else type_name
    known = [*layout_names(), *sorted(files)]
    nearest = difflib.get_close_matches(wanted, known, n=3)
    looked = "\n".join(f"  {path}" for path in dict.fromkeys(paths))
    families = [name for name in layout_names() if "." not in name]
    hint = f"nearest: {', '.join(nearest)}" if nearest else f"built in: {', '.join(families)}"
    return UserError(
        Problem(
            f"no prompt strategy {type_name!r}",
            fix=f"looked for\n{looked}\n{hint}",
        )
    )


class _TextLoader(importlib.abc.InspectLoader):
    """Gives the import machinery a file's text, so that nothing is written beside it."""

    def __init__(self, source: StrategySource) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source.text

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self._source.text, self._source.path)

    def is_package(self, fullname: str) -> bool:
        return False


def _run(source: StrategySource) -> Any:
    # The path is part of the name: a file that is loaded from two places imports from both.
    key = hashlib.sha256(f"{source.path}\0{source.sha256}".encode()).hexdigest()[:16]
    name = f"ft_strategy_{key}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.machinery.ModuleSpec(name, _TextLoader(source), origin=source.path)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = source.path
    linecache.cache[source.path] = (
        len(source.text), None, source.text.splitlines(keepends=True), source.path,
    )  # fmt: skip
    sys.modules[name] = module
    try:
        with axolotl_shim.installed(), _importable_from(Path(source.path).parent):
            _TextLoader(source).exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file raises what it likes
        del sys.modules[name]
        raise UserError(describe_error(error, source.path)) from error
    return module


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """The file may import what lies beside it, while it is loaded."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)

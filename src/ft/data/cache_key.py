"""What tokens depend on, as one key: equal keys, equal tokens.

    bytes of the records' files          not their names, dates or places
    the strategy: name, mapping, or file  with the modules beside it that it imports
    the tokenizer                        by its files
    keys that change tokens              sequence_len, train_on_inputs, chat_template, split, ...
    versions                             of the libraries that take part, and of this code

Anything else (seed, val_set_size, output_dir, max_drop, ...) is decided after the cache.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ft.data
from ft.data.layout import StrategyOptions
from ft.data.sources import SourceIdentity
from ft.data.strategy_file import StrategySource
from ft.spec.runspec import DatasetSpec

_LIBRARIES = ("tokenizers", "transformers", "jinja2", "datasets", "pyarrow", "pandas")
"""Libraries whose versions may change what is read or tokenized."""


@dataclass(frozen=True)
class SetIdentity:
    """One data set, as far as tokens depend on it.

    Attributes:
        spec: The entry of `datasets:`.
        content: Its records.
        source: The user's strategy file, if the entry names one.
        is_heldout: It comes from `test_datasets:`.
    """

    spec: DatasetSpec
    content: SourceIdentity
    source: StrategySource | None
    is_heldout: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Names that may appear in the account of the data set."""
        return (
            self.content.names if self.source is None else (*self.content.names, self.source.path)
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but names of files; a user's code may read them, so there they count."""
        has_code = self.source is not None
        entry = self.spec.model_dump(mode="json", exclude={"data_files"})
        if not has_code:
            del entry["path"]
        return {
            "records": self.content.digest,
            "entry": entry,
            "strategy": None if self.source is None else _code_digest(self.source),
            "is_heldout": self.is_heldout,
        }


def cache_key(
    sets: Sequence[SetIdentity],
    tokenizer_identity: str,
    options: StrategyOptions,
    excess: str | None,
) -> str:
    """The key of the tokens of some data sets, in their order.

    Args:
        sets: The data sets.
        tokenizer_identity: Changes with anything that changes the tokenizer.
        options: The keys beside `datasets:`.
        excess: `excess_length_strategy`.
    """
    depends_on = {
        "sets": [each.to_json() for each in sets],
        "tokenizer": tokenizer_identity,
        "options": asdict(options),
        "excess": excess,
        "versions": [_version(name) for name in _LIBRARIES],
        "code": _own_digest(),
    }
    text = json.dumps(depends_on, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@cache
def _own_digest() -> str:
    """Of this room's own source: whoever changes a layout need not remember to raise a number."""
    folder = Path(ft.data.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _code_digest(source: StrategySource) -> list[str]:
    """Of a strategy file, the function asked for, and the modules beside it that it uses."""
    beside = sorted(set(_modules_beside(Path(source.path), source.text, set())))
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in beside]
    return [source.sha256, str(source.function), *sums]


def _modules_beside(path: Path, text: str, seen: set[Path]) -> Iterator[Path]:
    """Files in the strategy's folder that it imports, and those that they import."""
    for name in _imported_names(text):
        if name in sys.stdlib_module_names:
            continue
        package = path.parent / name
        files = [path.parent / f"{name}.py", *sorted(package.rglob("*.py"))]
        for file in files:
            if file.is_file() and file not in seen:
                seen.add(file)
                yield file
                yield from _modules_beside(
                    path.parent / file.name, file.read_text(encoding="utf-8"), seen
                )


def _imported_names(text: str) -> set[str]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names

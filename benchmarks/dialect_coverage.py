"""How many of a folder of public axolotl files load, and which keys stop the others.

    python benchmarks/dialect_coverage.py axolotl/examples [--files]

Its tables are in docs/dialect_coverage.md.

A file counts if it configures the training of a text model: it names a `base_model`, and no key of
it speaks of images or sound. It loads if `ft.spec.load_spec` returns a spec; whether its base model
and its data exist is another question.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.runtime import UserError
from ft.runtime.errors import Problem
from ft.spec import load_spec
from ft.spec.document import Document, read_document
from ft.spec.key_table import key_table
from ft.spec.reading import is_default

_OTHER_MODALITY = re.compile(
    r"processor_(type|kwargs)|(.*_)?(image|images|audio|vision|video)(_.*)?"
)


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    path: Path
    blockers: tuple[tuple[str, str], ...]
    """The keys that stop it, each with what was said; none for a file that loads."""
    idle: tuple[str, ...]
    """Its keys that are accepted and have no effect here."""


def is_for_a_text_model(document: Document) -> bool:
    """Whether a file is a training config, and none of its keys is for another modality."""
    asked = {key for key, value in document.values.items() if value is not None}
    return "base_model" in asked and not any(map(_OTHER_MODALITY.fullmatch, asked))


def outcome_of(path: Path) -> Outcome | None:
    """Loads one file; None if it is not one that counts."""
    document = read_document(path)
    if not is_for_a_text_model(document):
        return None
    table = key_table()
    idle = tuple(
        key
        for key, value in document.values.items()
        if key in table and table[key].state == "no effect" and not is_default(key, value)
    )
    try:
        load_spec(path)
    except UserError as error:
        return Outcome(path, tuple(_blocker(problem, document) for problem in error.problems), idle)
    return Outcome(path, (), idle)


def _blocker(problem: Problem, document: Document) -> tuple[str, str]:
    """The key that a problem stands at, without the numbers of list entries."""
    place = tuple(map(int, problem.where.rsplit(":", 2)[1:]))
    key_path: Sequence[Any] = next(
        (path for path, position in document.positions.items() if path and position == place), ()
    )
    missing = re.fullmatch(r"(\w+) is missing", problem.what)
    key = ".".join(part for part in key_path if isinstance(part, str))
    return (missing[1] if missing else key), f"{problem.what}: {problem.fix}".replace("\n", " ")


def table_of(outcomes: Sequence[Outcome]) -> str:
    """The keys that stop files, by how often, as Markdown."""
    stopped = Counter[str]()
    alone = Counter[str]()
    said: dict[str, str] = {}
    for outcome in outcomes:
        keys = {key for key, _ in outcome.blockers}
        stopped.update(keys)
        alone.update(keys if len(keys) == 1 else ())
        for key, words in outcome.blockers:
            said.setdefault(key, words)
    rows = ["| key | files | the only one in | what is said |", "|---|---|---|---|"]
    for key, count in sorted(stopped.items(), key=lambda pair: (-pair[1], pair[0])):
        words = said[key].replace("|", "\\|")
        rows.append(f"| `{key}` | {count} | {alone[key]} | {words} |")
    return "\n".join(rows)


def table_of_idle_keys(outcomes: Sequence[Outcome]) -> str:
    """The keys of files that load which have no effect, by how often, as Markdown."""
    counts = Counter(key for outcome in outcomes for key in outcome.idle)
    rows = ["| key | files | why |", "|---|---|---|"]
    for key, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        rows.append(f"| `{key}` | {count} | {key_table()[key].sentence} |")
    return "\n".join(rows)


def main() -> None:
    """Loads every YAML file below a folder and prints the share and the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", action="store_true", help="name the files that do not load")
    given = parser.parse_args()
    paths = sorted(given.folder.rglob("*.y*ml"))
    outcomes = [outcome for outcome in map(outcome_of, paths) if outcome]
    stopped = [outcome for outcome in outcomes if outcome.blockers]
    num_loaded = len(outcomes) - len(stopped)
    share = num_loaded / len(outcomes) if outcomes else 0.0
    print(f"{len(paths)} files, {len(outcomes)} for text models; {num_loaded} load ({share:.1%})\n")
    print(f"## What stops the others\n\n{table_of(stopped)}\n")
    loaded = [outcome for outcome in outcomes if not outcome.blockers]
    print(f"## Accepted without effect, in those that load\n\n{table_of_idle_keys(loaded)}")
    if given.files:
        for outcome in stopped:
            keys = ", ".join(sorted({key for key, _ in outcome.blockers}))
            print(f"\n{outcome.path.relative_to(given.folder)}: {keys}", end="")
        print()


if __name__ == "__main__":
    main()

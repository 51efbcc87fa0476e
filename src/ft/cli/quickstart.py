"""`ft init --quickstart`: the quickstart's files, laid out where the user says."""

from __future__ import annotations

import shutil
from pathlib import Path

import ft
from ft.cli.starting_file import SCHEMA_FILE
from ft.runtime import Problem, UserError
from ft.runtime.durable import write_json
from ft.spec.schema import json_schema

_FILES = ("README.md", "*.yml", "*.py", "train.jsonl", "heldout.jsonl", "base/*")


def lay_out_quickstart(target: Path) -> Path:
    """Copies the quickstart's files, with the schema beside them that editors read.

    Args:
        target: A folder, made if it is not there; nothing in it is overwritten.

    Returns:
        The YAML file to train.

    Raises:
        UserError: a file of the same name is there, or the target is a file.
    """
    source = _source()
    names = [
        path.relative_to(source) for pattern in _FILES for path in sorted(source.glob(pattern))
    ]
    if target.exists() and not target.is_dir():
        raise UserError(Problem("is a file, not a folder", str(target), fix="name another folder"))
    if taken := [name for name in names if (target / name).exists()]:
        raise UserError(
            Problem(f"holds a {taken[0]} already", str(target), fix="name another folder")
        )
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name.suffix == ".yml":
            text = (source / name).read_text(encoding="utf-8")
            (target / name).write_text(_with_schema_beside(text), encoding="utf-8")
        else:
            shutil.copyfile(source / name, target / name)
    write_json(target / SCHEMA_FILE, json_schema())
    return target / "sql.yml"


def _with_schema_beside(text: str) -> str:
    """A config of ours whose first line points to the schema in the same folder."""
    pointer, _, rest = text.partition("\n")
    return f"{pointer.partition('=')[0]}={SCHEMA_FILE}\n{rest}"


def _source() -> Path:
    """In an installed package beside its code, in a clone among the examples."""
    package = Path(ft.__file__).parent
    installed = package / "quickstart"
    return installed if installed.is_dir() else package.parents[1] / "examples" / "quickstart"

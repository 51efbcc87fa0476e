"""Another tool's config as plain values: YAML, JSON, or the command line of a shell script.

    trl sft --config sft.yaml --learning_rate 1e-5     a script; the file it names is read as well
    python unsloth-cli.py --r 32 --load_in_4bit        flags alone are true
    tune run RECIPE --config lora.yaml epochs=3        key=value reaches into mappings

Variables that the script sets itself are filled in; nothing is run.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.document import parse_scalar, read_document

_SCRIPT_ENDINGS = (".sh", ".bash", ".txt", ".cmd", ".bat", ".ps1")
_DATA_ENDINGS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
_LAUNCHERS = ("trl", "tune", "llamafactory-cli", "unsloth", "swift")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|\S*)\s*$")
_FLAG = re.compile(r"(?:^|\s)--[A-Za-z]\w*")
_PAIR = re.compile(r"[A-Za-z_][\w.]*=.*", re.DOTALL)


@dataclass(frozen=True)
class SourceFile:
    """What another tool's file says."""

    path: Path
    values: dict[str, Any]
    program: str = ""
    """The command in front of the flags: `python unsloth-cli.py`; empty for YAML and JSON."""
    comments: tuple[str, ...] = ()
    """Lines that are comments, without their sign."""


def read_source(path: Path) -> SourceFile:
    """Reads a config of another tool.

    Raises:
        UserError: There is no such file, or it is neither YAML nor JSON nor a command line.
    """
    if path.suffix.lower() in (*_DATA_ENDINGS, ".py"):
        what = "is a program" if path.suffix.lower() == ".py" else "is data"
        fix = "name the YAML, the JSON or the shell script that starts training with it"
        raise UserError(Problem(f"{what}, not a tool's config", str(path), fix=fix))
    if path.suffix.lower() in _SCRIPT_ENDINGS:
        return _read_script(path)
    if path.suffix.lower() == ".json":
        return SourceFile(path, _read_json(path))
    document = read_document(path)
    comments = tuple(
        line.lstrip()[1:].strip() for line in document.lines if line.lstrip()[:1] == "#"
    )
    return SourceFile(path, document.values, comments=comments)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        read_document(path)  # which says in words what is wrong with it
        raise


def _read_json(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        source = text.splitlines()[error.lineno - 1] if text.strip() else ""
        raise UserError(Problem(f"not valid JSON: {error.msg}", where, source.strip())) from None
    if not isinstance(values, dict):
        raise UserError(
            Problem(
                "expected one object, {...}", str(path), fix="name the tool's config, not its data"
            )
        )
    return values


# -- command lines ------------------------------------------------------------------------------


def _read_script(path: Path) -> SourceFile:
    text = _read_text(path)
    lines = text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()
    variables = {m[1]: m[2].strip("\"'") for m in map(_ASSIGNMENT.match, lines) if m}
    comments = tuple(line.lstrip()[1:].strip() for line in lines if line.lstrip()[:1] == "#")
    commands = [line for line in lines if _is_command(line)]
    if not commands:
        raise UserError(
            Problem(
                "holds no command with --flags",
                str(path),
                fix="write the command that starts training, in one line or with \\ at line ends",
            )
        )
    try:
        tokens = shlex.split(_fill_in(max(commands, key=len), variables), comments=True)
    except ValueError as error:
        raise UserError(Problem(f"not a command line: {error}", str(path))) from None
    program, arguments = _split_program(tokens)
    return SourceFile(path, _values_of(arguments, program, path), " ".join(program), comments)


def _is_command(line: str) -> bool:
    words = line.split()
    is_remark = not words or words[0].startswith("#")
    return not is_remark and bool(_FLAG.search(line) or any(w in _LAUNCHERS for w in words[:2]))


def _fill_in(line: str, variables: dict[str, str]) -> str:
    """The line with the script's own variables in it; those from outside stay as they are."""
    return re.sub(
        r"\$\{(\w+)\}|\$(\w+)",
        lambda match: variables.get(match[1] or match[2], match[0]),
        line,
    )


def _split_program(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """The program with its subcommand, and its own arguments; a launcher's are left out."""
    for i, token in enumerate(tokens):
        if Path(token).name in _LAUNCHERS and i + 1 < len(tokens):
            end = i + 2
            if Path(token).name == "tune":  # tune run [launcher's flags] RECIPE --config NAME
                end = next((j for j in range(end, len(tokens)) if tokens[j][:2] != "--"), end) + 1
            return list(tokens[: min(end, len(tokens))]), list(tokens[end:])
        if token.endswith(".py"):
            return list(tokens[: i + 1]), list(tokens[i + 1 :])
    first = next((i for i, token in enumerate(tokens) if token.startswith("--")), len(tokens))
    return list(tokens[:first]), list(tokens[first:])


def _values_of(arguments: Sequence[str], program: Sequence[str], path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    given: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if token.startswith("--"):
            name, has_value, text = token[2:].partition("=")
            texts = [text] if has_value else _take_values(rest)
            _assign(given, name.replace("-", "_"), _value(texts))
        elif _PAIR.fullmatch(token):
            name, _, text = token.partition("=")
            _assign(given, name, _value([text]))
        elif token.lower().endswith((".yaml", ".yml", ".json")):
            given["config"] = token
    config = given.pop("config", None)
    if config is not None:
        values = read_source(_find_config(str(config), path)).values
    for name, value in given.items():
        _merge(values, name, value)
    return values


def _take_values(rest: list[str]) -> list[str]:
    texts = []
    while rest and not rest[0].startswith("--") and not _PAIR.fullmatch(rest[0]):
        texts.append(rest.pop(0))
    return texts


def _find_config(name: str, script: Path) -> Path:
    beside = script.parent / name
    return beside if beside.exists() and not Path(name).exists() else Path(name)


def _value(texts: Sequence[str]) -> Any:
    if not texts:
        return True
    values = [_one_value(text) for text in texts]
    return values[0] if len(values) == 1 else values


def _one_value(text: str) -> Any:
    if text in ("None", ""):
        return None
    try:
        return parse_scalar(text)
    except UserError:
        return text


def _assign(values: dict[str, Any], name: str, value: Any) -> None:
    """Sets `a.b.c`, making the mappings above it."""
    *above, last = name.split(".")
    for part in above:
        inner = values.setdefault(part, {})
        values = inner if isinstance(inner, dict) else {}
    values[last] = value


def _merge(values: dict[str, Any], name: str, value: Any) -> None:
    before = values.get(name)
    if isinstance(before, dict) and isinstance(value, dict):
        for key, inner in value.items():
            _merge(before, key, inner)
    else:
        values[name] = value

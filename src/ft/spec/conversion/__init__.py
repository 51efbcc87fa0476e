"""Configs of other tools -> ours, with a list of what could not come along.

    convert(path) -> Conversion
    |-- source_file.py      YAML, JSON or a command line -> plain values
    |-- llama_factory.py  trl.py  unsloth.py  torchtune.py     a table each: their key -> ours
    |-- hf_arguments.py     the keys that the first three share
    |-- chat_formats.py     their named templates as layouts of ours
    |-- draft.py            what was carried over, changed, lost
    `-- writer.py           our keys as a commented YAML file

Nothing of theirs is imported or run; a key that no table names is said, not dropped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.conversion import llama_factory, torchtune, trl, unsloth
from ft.spec.conversion.draft import Draft, Note
from ft.spec.conversion.source_file import SourceFile, read_source
from ft.spec.conversion.writer import Setting, write_yaml
from ft.spec.load import load_spec
from ft.spec.nearest import nearest
from ft.spec.secrets import find_secrets

__all__ = ["TOOLS", "Conversion", "Note", "Setting", "convert", "write_yaml"]


@dataclass(frozen=True)
class Tool:
    """A tool whose configs are read."""

    title: str
    signs: tuple[str, ...]
    """Keys that no other tool has."""
    programs: tuple[str, ...]
    """How its commands are called."""
    convert: Callable[[SourceFile, Draft], None]


TOOLS: Mapping[str, Tool] = {
    "llama-factory": Tool(
        "LLaMA-Factory", llama_factory.SIGNS, llama_factory.PROGRAMS, llama_factory.convert_values
    ),
    "trl": Tool("TRL", trl.SIGNS, trl.PROGRAMS, trl.convert_values),
    "unsloth": Tool("unsloth", unsloth.SIGNS, unsloth.PROGRAMS, unsloth.convert_values),
    "torchtune": Tool("torchtune", torchtune.SIGNS, torchtune.PROGRAMS, torchtune.convert_values),
}


@dataclass(frozen=True)
class Conversion:
    """A config of ours, and what should be known about how it came to be."""

    tool: str
    """The tool's name as people write it."""
    reason: str
    """Why the file was taken for one of that tool's."""
    yaml: str
    carried: Mapping[str, str]
    """Their key -> ours."""
    changed: tuple[Note, ...]
    """What means something else now."""
    lost: tuple[Note, ...]
    """What was left out."""
    lacking: tuple[str, ...]
    """What `ft validate` would still say about the file."""


def convert(path: Path, tool: str | None = None) -> Conversion:
    """Reads another tool's config.

    Args:
        path: YAML, JSON, or a script with the command line.
        tool: A name of TOOLS; None finds it out.

    Raises:
        UserError: The file can't be read, belongs to none of the tools, or trains in a way that is
            not supported.
    """
    if tool is not None and tool not in TOOLS:
        guess = nearest(tool, TOOLS)
        fix = f"one of {', '.join(TOOLS)}" + (f"; did you mean {guess}?" if guess else "")
        raise UserError(Problem(f"got {tool!r}", "--from", fix=fix))
    source = read_source(path)
    name, reason = (tool, "--from says so") if tool else _recognize(source)
    chosen = TOOLS[name]
    clean, secrets = _without_secrets(source.values)
    draft = Draft(clean, chosen.title)
    chosen.convert(SourceFile(path, clean, source.program, source.comments), draft)
    header = (f"Converted from {chosen.title}'s {path.name} by `ft convert`.",)
    text = write_yaml(draft.ours, header)
    return Conversion(
        chosen.title,
        reason,
        text,
        {key: ours for key, ours in draft.carried.items() if key},
        tuple(draft.changed),
        (*draft.lost, *secrets),
        _lacking(text),
    )


def _recognize(source: SourceFile) -> tuple[str, str]:
    """The tool that a file belongs to, and what tells."""
    for name, tool in TOOLS.items():
        words = source.program.replace("\\", "/").replace("/", " ").split()
        if found := next((program for program in tool.programs if program in words), None):
            return name, f"the command is {found}"
    if "base_model" in source.values:
        what = "this is the dialect that ft reads, so there is nothing to convert"
        raise UserError(Problem(what, str(source.path), fix=f"ft validate {source.path}"))
    found_keys = {
        name: [sign for sign in tool.signs if _holds(source.values, sign)]
        for name, tool in TOOLS.items()
    }
    best = max(found_keys, key=lambda name: len(found_keys[name]))
    num_signs = len(found_keys[best])
    rivals = [name for name in TOOLS if num_signs and len(found_keys[name]) == num_signs]
    if len(rivals) == 1:
        keys = found_keys[best][:3]
        return best, f"it has {', '.join(keys)}"
    raise UserError(_not_recognized(source, rivals))


def _holds(values: Mapping[str, Any], sign: str) -> bool:
    """Whether a key is there; `training.load_in_4bit` looks inside, `*._component_` everywhere."""
    first, _, rest = sign.partition(".")
    if not rest:
        return first in values
    inside = values.values() if first == "*" else [values.get(first)]
    return any(isinstance(value, Mapping) and rest in value for value in inside)


def _not_recognized(source: SourceFile, rivals: list[str]) -> Problem:
    what = (
        f"could be a config of {' or '.join(rivals)}"
        if rivals
        else f"none of its keys tells a tool: {', '.join(map(str, list(source.values)[:6]))}"
    )
    return Problem(what, str(source.path), fix=f"say which: --from {'|'.join(rivals or TOOLS)}")


def _without_secrets(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Note]]:
    """The values without tokens and passwords, which are never written anywhere."""
    paths = {path: why for path, why, _ in find_secrets(values, ())}
    clean = _pruned(values, (), set(paths))
    why = "a secret is never carried over: run `hf auth login`, or set it in the environment"
    notes = [Note(".".join(map(str, path)), "***", why) for path in paths]
    return clean, notes


def _pruned(value: Any, path: tuple[str | int, ...], secret: set[Any]) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _pruned(inner, (*path, key), secret)
            for key, inner in value.items()
            if (*path, key) not in secret
        }
    if isinstance(value, list):
        return [
            _pruned(inner, (*path, i), secret)
            for i, inner in enumerate(value)
            if (*path, i) not in secret
        ]
    return value


def _lacking(text: str) -> tuple[str, ...]:
    """What is wrong with the config by itself; base model and data are not looked for."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "converted.yml"
        file.write_text(text, encoding="utf-8")
        try:
            load_spec(file)
        except UserError as error:
            return tuple(
                problem.what + (f" ({' '.join(problem.fix.split())})" if problem.fix else "")
                for problem in error.problems
            )
    return ()

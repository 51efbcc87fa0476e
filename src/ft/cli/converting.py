"""`ft convert`: the config to standard output or a file, what is to be said to standard error."""

from __future__ import annotations

import sys
from pathlib import Path

from ft.cli.output import say
from ft.runtime import Problem, UserError
from ft.spec.conversion import Conversion, Note, convert

_WIDTH = 100


def convert_file(path: Path, tool: str | None, output: Path | None, *, overwrite: bool) -> None:
    """Converts a file and says what became of it.

    Args:
        path: Another tool's config.
        tool: Its name; None finds it out.
        output: Where the YAML goes; None is standard output.
        overwrite: Whether `output` may be there already.

    Raises:
        UserError: The file can't be read or converted, or `output` is there or can't be written.
    """
    if output is not None:
        _check_output(output, path, overwrite=overwrite)
    conversion = convert(path, tool)
    if output is None:
        say(conversion.yaml, end="")
    else:
        _write(output, conversion.yaml)
    for line in report(conversion, output):
        print(line, file=sys.stderr)  # noqa: T201 - standard output is the YAML


def _check_output(output: Path, source: Path, *, overwrite: bool) -> None:
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(
            Problem("is the file that is converted", "--output", fix="name another one")
        )
    if output.is_dir():
        raise UserError(
            Problem(f"{output} is a folder", "--output", fix=f"-o {output / 'run.yml'}")
        )
    if output.exists() and not overwrite:
        fix = "name another file, or add --overwrite"
        raise UserError(Problem(f"{output} is there already", "--output", fix=fix))


def _write(output: Path, text: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            Problem(f"{output} can't be written: {error.strerror}", "--output")
        ) from None


def report(conversion: Conversion, output: Path | None) -> list[str]:
    """What was carried over, what changed, what was left out, what is still missing."""
    lines = [f"a config of {conversion.tool}: {conversion.reason}"]
    lines.append(f"carried over: {_count(len(conversion.carried), 'key')}")
    lines += _section("changed in meaning", conversion.changed)
    lines += _section("not carried over", conversion.lost)
    if conversion.lacking:
        lines += ["", "still to be done before `ft validate` passes:"]
        lines += [f"  {what}" for what in conversion.lacking]
    elif output is None:
        lines += ["", "next: add -o run.yml to this command, then: ft validate run.yml"]
    else:
        lines += ["", f"next: ft validate {output}   ft train {output}"]
    return lines


def _section(title: str, notes: tuple[Note, ...]) -> list[str]:
    if not notes:
        return []
    lines = ["", f"{title}: {_count(len(notes), 'key')}"]
    for note in notes:
        named = f"{note.key}: {note.value}" if note.value else note.key
        line = f"  {named}  ({note.why})"
        lines += [line] if len(line) <= _WIDTH else [f"  {named}", f"      {note.why}"]
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")

"""`ft init`: a config from five answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer

from ft.cli.starting_data import ARROW, Data, layout_of_fields, look_at
from ft.cli.starting_file import METHODS, Plan, write_config
from ft.runtime import Problem, UserError
from ft.spec.nearest import nearest


@dataclass(frozen=True)
class Answers:
    """What was said on the command line; None where nothing was."""

    base_model: str | None = None
    data: str | None = None
    type: str | None = None
    method: str | None = None
    output_dir: str | None = None


def start_config(target: Path, given: Answers, *, overwrite: bool) -> list[str]:
    """Asks for what is missing, and writes a config that `ft validate` accepts.

    Args:
        target: The YAML to write.
        given: Answers that need no question.
        overwrite: Whether the file may be there already.

    Returns:
        What was written and what to type next.

    Raises:
        UserError: An answer is missing and nobody is there to ask, or can't be right; nothing is
            written then.
    """
    _check_target(target, overwrite=overwrite)
    if sys.stdin.isatty() and sys.stdout.isatty():
        given = _ask(target, given)
    plan = _plan(target, given)
    text = write_config(plan, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(Problem(f"can't be written: {error.strerror}", str(target))) from None
    name = str(target)
    told = [f"wrote {name}: {plan.method} of {plan.base_model} on {plan.data.path}"]
    if plan.data.finding:
        told.append(f"the records: {plan.data.finding}")
    return [*told, f"next: ft validate {name}   ft preview {name}   ft train {name}"]


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.is_dir():
        fix = f"ft init {target / 'run.yml'}, or ft init --quickstart {target}"
        raise UserError(Problem("is a folder", str(target), fix=fix))
    if target.suffix.lower() not in (".yml", ".yaml"):
        raise UserError(Problem("is no YAML file by its ending", str(target), fix=f"{target}.yml"))
    if target.exists() and not overwrite:
        fix = "name another file, or add --overwrite"
        raise UserError(Problem("is there already", str(target), fix=fix))


def _ask(target: Path, given: Answers) -> Answers:
    """The questions, one for each answer that is missing."""
    base = given.base_model or typer.prompt("Base model (a hub name or a folder)")
    path = given.data or typer.prompt("Data (a JSON, JSONL or CSV file, or a hub data set)")
    data = look_at(path)
    layout = given.type
    if layout is None and data.layout is None:
        typer.echo(f"  {data.finding}")
        layout = typer.prompt("Layout (alpaca, chat_template, ..., or: question -> answer)")
    method = given.method or typer.prompt(f"Method ({', '.join(METHODS)})", default="qlora")
    output = given.output_dir or typer.prompt("Folder of the run", default=_usual_folder(target))
    return Answers(base, path, layout, method, output)


def _usual_folder(target: Path) -> str:
    return f"./{target.stem}-out"


def _plan(target: Path, given: Answers) -> Plan:
    """The answers, once they are all there and known to be sound."""
    problems = [
        Problem(f"{what} is missing", flag, fix=f"add {flag} {example}")
        for what, flag, example, answer in (
            ("the base model", "--base-model", "Qwen/Qwen3-0.6B", given.base_model),
            ("the data", "--data", "train.jsonl", given.data),
        )
        if not answer
    ]
    method = given.method or "qlora"
    if method not in METHODS:
        guess = nearest(method, METHODS)
        fix = f"one of {', '.join(METHODS)}" + (f"; did you mean {guess}?" if guess else "")
        problems.append(Problem(f"got {method!r}", "--method", fix=fix))
    data, found = _checked(given)
    problems += found
    if problems or data is None or given.base_model is None:
        raise UserError(*problems)
    output = given.output_dir or _usual_folder(target)
    return Plan(given.base_model, _as_seen_from(target, data), method, output)


def _checked(given: Answers) -> tuple[Data | None, Sequence[Problem]]:
    """The data, if it is there; and what is wrong with it, its layout and the model."""
    from ft.data.sources import find_local
    from ft.data.strategy import check_strategy
    from ft.model.base_check import check_base
    from ft.spec import DatasetSpec, ModelSpec

    problems: list[Problem] = []
    if given.base_model:
        model = ModelSpec(base_model=given.base_model)
        problems += _found("--base-model", partial(check_base, model))
    if not given.data:
        return None, problems
    if missing := _found("--data", partial(find_local, given.data, Path())):
        return None, [*problems, *missing]
    data = look_at(given.data)
    if given.type is None and data.layout is None:
        problems.append(Problem(data.finding, "--type", fix=_TYPES_TO_NAME))
    elif given.type is not None and ARROW in given.type:
        layout, found = layout_of_fields(given.type, data.fields)
        data = replace(data, layout=layout)
        if found:
            problems.append(Problem(found, "--type", fix=f"fields: {', '.join(data.fields)}"))
    elif given.type is not None:
        entry = DatasetSpec(path=given.data, type=given.type)
        problems += _found("--type", partial(check_strategy, entry, Path()))
        data = replace(data, layout={"type": given.type}, finding="")
    return data, problems


_TYPES_TO_NAME = (
    "say how they are laid out: --type alpaca, chat_template, completion, ./mine.py\n"
    'or which field answers which: --type "question -> answer"'
)


def _found(flag: str, check: Callable[[], object]) -> list[Problem]:
    """What the check finds wrong with an option's value."""
    try:
        check()
    except UserError as error:
        return [replace(problem, where=flag, source="") for problem in error.problems]
    return []


def _as_seen_from(target: Path, data: Data) -> Data:
    """The data's path as the config names it: a file is looked for beside the config too."""
    path = Path(data.path)
    if path.is_absolute() or not path.exists() or target.parent.resolve() == Path.cwd():
        return data
    return replace(data, path=os.path.relpath(path, target.parent))

"""Commands to start with: a config, another tool's config, the machine, the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft.cli.commands.arguments import quiet_libraries, short
from ft.cli.output import say
from ft.runtime import Problem, UserError


def init(  # noqa: PLR0913 - an argument for each option
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]",
            help="The YAML to write (run.yml); with --quickstart a folder.",
            show_default=False,
        ),
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Hub name or folder of the model.")] = None,
    data: Annotated[str | None, typer.Option(help="A data file, or a hub data set's name.")] = None,
    type: Annotated[str | None, typer.Option(help="Prompt strategy; found out from data.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora or full.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="The run's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Where FILE is there.")] = False,
    quickstart: Annotated[
        bool, typer.Option("--quickstart", help="A toy model and its data, to see the whole way.")
    ] = False,
) -> None:
    """Start a config, with a few questions: ft init run.yml

    Asks for what is not given: ft init run.yml --base-model NAME --data train.jsonl
    ft init --quickstart DIR lays a working example out.
    """
    from ft.cli.quickstart import lay_out_quickstart
    from ft.cli.starting import Answers, start_config

    if quickstart:
        if target is None:
            raise UserError(Problem("no folder is named", fix="ft init --quickstart DIR"))
        config = lay_out_quickstart(target)
        say(f"laid out in {short(config.parent)}")
        say(f"next: ft train {short(config)}")
        return
    answers = Answers(base_model, data, type, method, output_dir)
    for line in start_config(target or Path("run.yml"), answers, overwrite=overwrite):
        say(line)


def convert(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="YAML, JSON or a command line.", show_default=False),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the YAML goes; else it is printed.")
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--from", help="llama-factory, trl, unsloth or torchtune.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Where it is there.")] = False,
) -> None:
    """Bring a config from another tool: ft convert sft.yaml -o run.yml

    Reads LLaMA-Factory, TRL, unsloth and torchtune; lists what it could not carry over.
    """
    from ft.cli.converting import convert_file

    convert_file(file, tool, output, overwrite=overwrite)


def doctor() -> None:
    """What this machine can do, and what mends the rest: ft doctor"""
    from ft.cli.doctor import examine, verdict

    quiet_libraries()
    findings = []
    for finding in examine(Path.cwd()):
        findings.append(finding)
        say(finding.render())
    say(verdict(findings))


def schema() -> None:
    """The keys as JSON Schema, for editors: ft schema > ft.schema.json"""
    import json

    from ft.spec.schema import json_schema

    say(json.dumps(json_schema(), indent=2, ensure_ascii=False))

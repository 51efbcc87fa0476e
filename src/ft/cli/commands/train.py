"""Commands that train, and what can be done ahead of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ft.bench import Records
from ft.cli.commands.arguments import Config, load_checked, quiet_libraries, short
from ft.cli.output import say


def train(
    context: typer.Context,
    config: Config,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train anew where a run is already.")
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--override", metavar="KEY", help="Go on though KEY has another value than before."
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, metavar="N", help="Train in so many processes.")
    ] = 1,
) -> None:
    """Train, or go on with a run that was stopped: ft train sql.yml --lora-r 16

    Any key of the YAML is an option: --lora-r 16, --datasets.0.path data.jsonl.
    The same command again resumes an unfinished run.
    """
    if processes > 1:
        given = [*(["--overwrite"] if overwrite else []), *_each("--override", override or [])]
        _train_in_processes(["train", str(config), *context.args, *given], processes)
        return
    from ft.cli.display import run_display
    from ft.cli.preflight import check_hub_names
    from ft.cli.words import duration
    from ft.spec.methods import METHODS
    from ft.train.claim import claim_run
    from ft.train.processes import follow_lifeline
    from ft.train.signals import leaving_on_signals

    follow_lifeline()
    loaded = load_checked(config, context.args)
    out = short(Path(loaded.spec.output.output_dir))
    with (
        leaving_on_signals(),
        claim_run(loaded, overwrite=overwrite, overrides=override or ()) as claimed,
    ):
        if claimed.is_finished:
            say(f"{out} is finished already; --overwrite trains anew")
        else:
            quiet_libraries()
            check_hub_names(loaded)
            from ft.train.run import train as train_run

            with run_display() as display:
                result = train_run(claimed, on_event=display)
            say(f"done in {duration(result.get('total_time_s', 0.0))}: {out}")
    adapter = loaded.spec.adapter.adapter
    merging = f"   ft merge {out}" if adapter and METHODS[adapter].is_merged else ""
    say(f'next: ft infer {out} --prompt "..."   ft eval {out}{merging}')


def bench(
    context: typer.Context,
    config: Config,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to measure.")] = 10,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 3,
    records: Annotated[
        Records,
        typer.Option(help="The config's own; or synthetic rows: full (sequence_len), short (105)."),
    ] = Records.AT_HAND,
    json: Annotated[Path | None, typer.Option(help="All figures, into this file.")] = None,
) -> None:
    """How fast it trains here, and how fast it could: ft bench sql.yml

    Takes the same overrides as train. Random weights in base_model's shape, of which a config.json
    is enough; nothing is kept. Without --records: the config's own where data and tokenizer are
    on this machine, else full rows.
    """
    from ft.cli.benching import bench_config, lines_of, write_record
    from ft.train.signals import leaving_on_signals

    quiet_libraries()
    with leaving_on_signals():
        record = bench_config(config, context.args, steps, warmup, records)
    for line in lines_of(record):
        say(line)
    if json is not None:
        write_record(record, json)
        say(f"all figures: {short(json)}")


def _each(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _train_in_processes(arguments: list[str], num_processes: int) -> None:
    from ft.train.processes import run_processes

    failure = run_processes(arguments, num_processes)
    if failure is None:
        return
    print(failure.words, end="", file=sys.stderr)  # noqa: T201 - the process's own, as it wrote it
    if failure.what or failure.rank:
        who = f"process {failure.rank} of {num_processes}"
        print(  # noqa: T201
            f"{who} {failure.what or 'said so'}; the others were ended\n"
            "  the same command goes on from the newest checkpoint",
            file=sys.stderr,
        )
    raise typer.Exit(failure.exit_code)


def preprocess(context: typer.Context, config: Config) -> None:
    """Tokenize the data ahead, for every run that trains on it: ft preprocess sql.yml

    Takes the same overrides as train. What is done already is not done again.
    """
    loaded = load_checked(config, context.args, needs_weights=False)
    quiet_libraries()
    from ft.cli.preprocess import preprocess as build_cache

    build_cache(loaded)

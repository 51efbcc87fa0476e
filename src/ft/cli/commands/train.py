"""Commands that train, and what can be done ahead of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
) -> None:
    """Train, or go on with a run that was stopped: ft train sql.yml --lora-r 16

    Any key of the YAML is an option: --lora-r 16, --datasets.0.path data.jsonl.
    The same command again resumes an unfinished run.
    """
    from ft.cli.display import duration, run_display
    from ft.cli.preflight import check_hub_names
    from ft.train.claim import claim_run
    from ft.train.signals import leaving_on_signals

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
    merging = f"   ft merge {out}" if loaded.spec.adapter.adapter else ""
    say(f'next: ft infer {out} --prompt "..."   ft eval {out}{merging}')


def preprocess(context: typer.Context, config: Config) -> None:
    """Tokenize the data ahead, for every run that trains on it: ft preprocess sql.yml

    Takes the same overrides as train. What is done already is not done again.
    """
    loaded = load_checked(config, context.args, needs_weights=False)
    quiet_libraries()
    from ft.cli.preprocess import preprocess as build_cache

    build_cache(loaded)

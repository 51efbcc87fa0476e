"""Commands that look before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ft.cli.commands.arguments import Config, load_checked, quiet_libraries
from ft.cli.output import say


def validate(context: typer.Context, config: Config) -> None:
    """All that is wrong with a config, or what it will do: ft validate sql.yml

    Takes the same overrides as train; loads no model.
    """
    loaded = load_checked(config, context.args)
    from ft.cli.overview import overview

    for line in overview(loaded):
        say(line)


def preview(
    context: typer.Context,
    config: Config,
    num_records: Annotated[int, typer.Option(min=0, help="Records to show of each data set.")] = 3,
    ids: Annotated[bool, typer.Option("--ids", help="Show each token with its id, too.")] = False,
    html: Annotated[Path | None, typer.Option(help="The same as a page, in this file.")] = None,
    dump: Annotated[
        Path | None, typer.Option(help="Every row's ids and labels, one JSON line each.")
    ] = None,
) -> None:
    """What the model will see, token by token: ft preview sql.yml

    Takes the same overrides as train; needs no GPU and no weights, only the tokenizer.
    Exits 2 where train would refuse the data.
    """
    from ft.cli.preflight import check_hub_names
    from ft.cli.preview import PreviewOptions, show_preview

    loaded = load_checked(config, context.args, needs_weights=False, for_preview=True)
    quiet_libraries()
    check_hub_names(loaded, needs_weights=False)
    show_preview(loaded, PreviewOptions(num_records, shows_ids=ids, html=html, dump=dump))


def plan(
    context: typer.Context,
    config: Config,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Plan for this card, as a100-40gb; default: the one here."
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(min=0, metavar="N", help="What an hour of it costs, to tell the run's cost."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Memory by part, time, cost, and the fastest settings that fit: ft plan sql.yml

    Takes the same overrides as train; needs no weights. Without a GPU it shows usual ones.
    Exits 3 where the run does not fit.
    """
    from ft.cli.preflight import check_hub_names

    loaded = load_checked(config, context.args, needs_weights=False)
    quiet_libraries()
    check_hub_names(loaded)
    from ft.cli.planning import show_plan

    show_plan(loaded, gpu=gpu, price=price, as_json=json)


def explain(
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="A key, or what several begin with: lora."),
    ] = None,
) -> None:
    """What a key of the YAML means: ft explain lora_r"""
    from ft.cli.explain import explain as explain_key

    for line in explain_key(key):
        say(line)

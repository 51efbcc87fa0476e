"""What several commands take, and how a config is read for them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ft.cli.output import say
from ft.runtime import find_newest_run

if TYPE_CHECKING:
    from ft.spec import LoadedSpec

Config = Annotated[Path, typer.Argument(metavar="CFG", help="The YAML file.", show_default=False)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)]
TrustsCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run a strategy file that came with the run.")
]
AnyRun = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUN]", help="A run's folder, or a merged model; default: the newest run below.",
        show_default=False,
    ),
]  # fmt: skip


def load_checked(
    config: Path, arguments: list[str], *, needs_weights: bool = True, for_preview: bool = False
) -> LoadedSpec:
    """The spec, once everything is checked that can be without loading a model.

    Args:
        config: The YAML file.
        arguments: Overrides, as typed.
        needs_weights: The base model itself must be there, not only its tokenizer.
        for_preview: It is only looked at, so it may ask for what can't be trained yet.
    """
    from ft.spec import load_spec

    loaded = load_spec(config, arguments, for_preview=for_preview)
    from ft.cli.preflight import check_inputs  # only now: a wrong YAML is told without it

    check_inputs(loaded, needs_weights=needs_weights)
    for notice in loaded.notices:
        say(f"note: {notice}")
    return loaded


def newest_run() -> Path:
    """The newest run below the working directory; says which it is."""
    path = find_newest_run(Path.cwd()).path
    print(f"using {short(path)}", file=sys.stderr)  # noqa: T201 - stdout is for the answer
    return path


def short(path: Path) -> str:
    """Relative to the working directory where that is shorter to read."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def quiet_libraries() -> None:
    """Keeps libraries from drawing bars of their own, from sending anything, and from spinning.

    OpenMP's threads (GNU's, which torch has on Linux) wait for each other busily, for milliseconds;
    beside other programs they so hold themselves up. After a moment they sleep instead.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

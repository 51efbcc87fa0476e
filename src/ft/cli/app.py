"""`ft`: the commands put together, and how the program ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from ft import __version__
from ft.cli.commands import look, start, train, use
from ft.cli.failures import report_failure
from ft.cli.grouping import CHECK, START, TRAIN, USE, GroupedCommands
from ft.cli.output import say
from ft.runtime import Problem, UserError
from ft.runtime.interrupts import interrupting_signal, leave_dropped

app = typer.Typer(
    cls=GroupedCommands,
    help="Fine-tune open language models from one YAML file.",
    epilog="ft COMMAND --help tells a command's options, ft explain KEY a key of the YAML. "
    "Any command with --debug adds the traceback of a failure.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which typer brings under its own name
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
_ANY_WORD = {"ignore_unknown_options": True}
"""So that `ft explain --lora-r` is a key too."""

_GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    START: {
        "init": start.init,
        "convert": start.convert,
        "doctor": start.doctor,
        "schema": start.schema,
    },
    CHECK: {
        "validate": look.validate,
        "preview": look.preview,
        "plan": look.plan,
        "explain": look.explain,
    },
    TRAIN: {"train": train.train, "preprocess": train.preprocess, "bench": train.bench},
    USE: {"infer": use.infer, "eval": use.evaluate, "merge": use.merge},
}
_CONTEXTS = {
    **dict.fromkeys(["validate", "preview", "plan", "train", "preprocess", "bench"], _OVERRIDES),
    "explain": _ANY_WORD,
}
_NOT_BUILT_YET = {
    "report": "a run as one HTML page",
    "export": "GGUF and friends",
    "push": "to the hub",
    "serve": "an OpenAI-compatible server",
}


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False,
) -> None:
    if version:
        say(f"ft {__version__}")
        raise typer.Exit


def _register() -> None:
    for group, commands in _GROUPS.items():
        for name, command in commands.items():
            context = _CONTEXTS.get(name)
            metavar = "[--KEY VALUE]... [OPTIONS]" if context is _OVERRIDES else "[OPTIONS]"
            app.command(
                name, rich_help_panel=group, context_settings=context, options_metavar=metavar
            )(command)
    for name, purpose in _NOT_BUILT_YET.items():
        app.command(name, hidden=True, context_settings=_OVERRIDES)(_not_built(name, purpose))


def _not_built(name: str, purpose: str) -> Callable[[], None]:
    def command() -> None:
        raise UserError(Problem(f"ft {name} ({purpose}) is not built yet"))

    return command


_register()


def main(arguments: list[str] | None = None) -> NoReturn:
    """The program: runs a command and exits with its code (see ft.runtime.errors)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    shows_traceback = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        code = app(args=given, prog_name="ft", standalone_mode=False)
    except _UsageError as error:
        error.show()
        sys.exit(2)
    except typer.Abort:
        code = _INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - the last stop: every failure leaves by its code
        leave_dropped()
        if interrupting_signal() is not None:  # whatever it became on its way
            error = KeyboardInterrupt().with_traceback(error.__traceback__)
        sys.exit(report_failure(error, shows_traceback=shows_traceback))
    leave_dropped()
    if code == _INTERRUPTED:  # Ctrl-C outside of the training loop, which has words of its own
        sys.exit(report_failure(KeyboardInterrupt(), shows_traceback=shows_traceback))
    sys.exit(code if isinstance(code, int) else 0)

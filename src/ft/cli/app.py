"""`ft`: parse, call one thing, show what came of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from ft import __version__
from ft.cli.failures import report_failure
from ft.cli.output import say
from ft.runtime import Problem, RunDirectory, UserError, find_newest_run

app = typer.Typer(
    help="Fine-tune open language models from one YAML file.",
    epilog="Any command with --debug adds the traceback of a failure.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, which typer brings under its own name
_TAKES_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}

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


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.")] = False,
) -> None:
    if version:
        say(f"ft {__version__}")
        raise typer.Exit


@app.command(context_settings=_TAKES_OVERRIDES, options_metavar="[--KEY VALUE]... [OPTIONS]")
def train(
    context: typer.Context,
    config: Config,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train anew where a run is already.")
    ] = False,
) -> None:
    """Train: ft train sql.yml --learning-rate 1e-4

    Any key of the YAML is an option: --lora-r 16, --datasets.0.path data.jsonl.
    The same command again resumes an unfinished run.
    """
    from ft.cli.display import duration, run_display
    from ft.train.claim import claim_run

    loaded = _load(config, context.args)
    out = _short(Path(loaded.spec.output.output_dir))
    with claim_run(loaded, overwrite=overwrite) as claimed:
        if claimed.is_finished:
            say(f"{out} is finished already; --overwrite trains anew")
        else:
            quiet_libraries()
            from ft.train.run import train as train_run

            with run_display() as display:
                result = train_run(claimed, on_event=display)
            say(f"done in {duration(result.get('total_time_s', 0.0))}: {out}")
    merging = f"   ft merge {out}" if loaded.spec.adapter.adapter else ""
    say(f'next: ft infer {out} --prompt "..."   ft eval {out}{merging}')


@app.command(context_settings=_TAKES_OVERRIDES, options_metavar="[--KEY VALUE]...")
def validate(context: typer.Context, config: Config) -> None:
    """Check a config and say what it will do: ft validate sql.yml

    Takes the same overrides as train; loads no model.
    """
    spec = _load(config, context.args).spec
    from ft.cli.overview import overview

    for line in overview(spec):
        say(line)


@app.command()
def merge(
    run: Run,
    onto: Annotated[
        str,
        typer.Option(
            help="dequantized: the very weights that were trained on; plain: the original ones."
        ),
    ] = "dequantized",
) -> None:
    """Adapter + base -> a full model in RUN/merged: ft merge out/"""
    if onto not in ("dequantized", "plain"):
        raise UserError(Problem(f"got {onto!r}, expected dequantized or plain", "--onto"))
    directory = RunDirectory(run)
    directory.read_run()
    quiet_libraries()
    from ft.cli.display import run_display
    from ft.ship.merged import merge_run

    with directory.claimed(), run_display() as display:
        lines = merge_run(directory, onto=onto, on_event=display)
    for line in lines:
        say(line)
    say(f'next: ft infer {_short(directory.merged)} --prompt "..."')


@app.command()
def infer(  # noqa: PLR0913 - an argument for each option
    run: AnyRun = None,
    prompt: Annotated[str | None, typer.Option(help="Text for the layout's question.")] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="Another field: --field context='CREATE TABLE ...'")
    ] = None,
    record: Annotated[str | None, typer.Option(help="All fields as one JSON object.")] = None,
    input: Annotated[Path | None, typer.Option(help="JSON lines, one record each.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the answers to --input go.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask and answer until Ctrl-D.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The prompt as it stands, no layout.")] = False,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model, untuned.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 = greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest tokens of this share.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many tokens; 0 = all.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.01, help="Over 1: what was said becomes less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the draws.")] = 0,
    trust_remote_code: TrustsCode = False,
) -> None:
    """Ask a tuned model, in the layout that it was trained with.

    ft infer out/ --prompt "How many heads are older than 56?" --field context="CREATE TABLE ..."
    """
    from ft.cli.asking import Question, ask

    question = Question(
        prompt=prompt, fields=tuple(field or ()), record=record, input=input, output=output,
        is_chat=chat, is_raw=raw,
    )  # fmt: skip
    question.check()
    if temperature == 0 and (top_p < 1 or top_k):
        raise UserError(Problem("--top-p and --top-k need a --temperature above 0"))
    folder = run or _newest_run()
    quiet_libraries()
    from ft.evaluate.answer import open_answerer
    from ft.evaluate.generate import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
    answerer = open_answerer(folder, is_base=base, trusts_code=trust_remote_code)
    ask(answerer, question, sampling)


@app.command(name="eval")
def evaluate(
    run: AnyRun = None,
    num_records: Annotated[
        int, typer.Option(min=1, help="Held-out records to answer (the loss uses all).")
    ] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at once.")] = 16,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer, in tokens; default: the longest reference's 1.5."),
    ] = None,
    trust_remote_code: TrustsCode = False,
) -> None:
    """Held-out loss and exact match, base beside tuned: ft eval out/"""
    folder = run or _newest_run()
    quiet_libraries()
    from ft.cli.display import run_display
    from ft.cli.overview import comparison
    from ft.evaluate.compare import compare_with_base

    directory = RunDirectory(folder)
    with run_display() as display:
        result = compare_with_base(
            directory, num_records=num_records, batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            trusts_code=trust_remote_code, on_event=display,
        )  # fmt: skip
    Console(highlight=False).print(comparison(result))
    say(f"written to {_short(directory.evaluation)}")


@app.command(context_settings={"ignore_unknown_options": True})  # so that --lora-r is a key too
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


@app.command()
def schema() -> None:
    """The keys as JSON Schema, for editors: ft schema > ft.schema.json"""
    import json

    from ft.spec.schema import json_schema

    say(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def doctor() -> None:
    """What this machine can do, and what mends the rest: ft doctor"""
    from ft.cli.doctor import examine, verdict

    quiet_libraries()
    findings = []
    for finding in examine(Path.cwd()):
        findings.append(finding)
        say(finding.render())
    say(verdict(findings))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    quickstart: Annotated[
        bool, typer.Option("--quickstart", help="A toy model and its data, to see the whole way.")
    ] = False,
) -> None:
    """Lay the quickstart's files out: ft init --quickstart DIR"""
    from ft.cli.starting import lay_out_quickstart

    if not quickstart:
        what = "ft init (start a config) is not built yet"
        raise UserError(Problem(what, fix="ft init --quickstart DIR lays a working example out"))
    config = lay_out_quickstart(folder)
    say(f"laid out in {_short(config.parent)}")
    say(f"next: ft train {_short(config)}")


_NOT_BUILT_YET = {
    "preview": "what the model will see, token by token",
    "plan": "memory and time beforehand",
    "preprocess": "the tokenized cache",
    "report": "a run as one HTML page",
    "export": "GGUF and friends",
    "push": "to the hub",
    "serve": "an OpenAI-compatible server",
    "convert": "a config from another tool",
}


def _say_not_built(name: str) -> None:
    def command() -> None:
        raise UserError(Problem(f"ft {name} ({_NOT_BUILT_YET[name]}) is not built yet"))

    app.command(name=name, hidden=True, context_settings=_TAKES_OVERRIDES)(command)


for _name in _NOT_BUILT_YET:
    _say_not_built(_name)


def _load(config: Path, arguments: list[str]) -> Any:
    """The spec, once everything is checked that can be without loading a model."""
    from ft.spec import load_spec

    loaded = load_spec(config, arguments)
    from ft.cli.preflight import check_inputs  # only now: a wrong YAML is told without it

    check_inputs(loaded)
    for notice in loaded.notices:
        say(f"note: {notice}")
    return loaded


def _newest_run() -> Path:
    path = find_newest_run(Path.cwd()).path
    print(f"using {_short(path)}", file=sys.stderr)  # noqa: T201 - stdout is for the answer
    return path


def _short(path: Path) -> str:
    """Relative to the working directory where that is shorter to read."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def quiet_libraries() -> None:
    """Keeps libraries from drawing bars of their own, and from forking tokenizer threads."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


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
        sys.exit(report_failure(error, shows_traceback=shows_traceback))
    if code == _INTERRUPTED:  # Ctrl-C outside of the training loop, which has words of its own
        sys.exit(report_failure(KeyboardInterrupt(), shows_traceback=shows_traceback))
    sys.exit(code if isinstance(code, int) else 0)

"""Commands for what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ft.cli.commands.arguments import AnyRun, Run, TrustsCode, newest_run, quiet_libraries, short
from ft.cli.output import say
from ft.runtime import Problem, RunDirectory, UserError


def merge(
    run: Run,
    onto: Annotated[
        str,
        typer.Option(
            help="dequantized: the very weights that were trained on; plain: the original ones."
        ),
    ] = "dequantized",
) -> None:
    """Adapter + base -> one full model, proven against the adapter: ft merge out/"""
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
    say(f'next: ft infer {short(directory.merged)} --prompt "..."')


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
    """Ask a tuned model, in the layout that it was trained with: ft infer --prompt "How many?"

    A classifier tells its labels, with their probabilities.
    A layout with more fields takes them by name: --field context="CREATE TABLE head (age INTEGER)"
    """
    from ft.cli.asking import Question, ask

    question = Question(
        prompt=prompt, fields=tuple(field or ()), record=record, input=input, output=output,
        is_chat=chat, is_raw=raw,
    )  # fmt: skip
    question.check()
    if temperature == 0 and (top_p < 1 or top_k):
        raise UserError(Problem("--top-p and --top-k need a --temperature above 0"))
    folder = run or newest_run()
    quiet_libraries()
    from ft.evaluate.answer import open_answerer
    from ft.evaluate.generate import Sampling
    from ft.evaluate.trained import open_run

    opened = open_run(folder, trusts_code=trust_remote_code)
    if opened.labels is not None:
        from ft.cli.labels import ask_classifier
        from ft.evaluate.classifier import open_classifier

        ask_classifier(open_classifier(opened, is_base=base), question)
        return
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
    ask(open_answerer(opened, is_base=base), question, sampling)


def evaluate(
    run: AnyRun = None,
    num_records: Annotated[
        int, typer.Option(min=1, help="Held-out records to answer (the loss uses all).")
    ] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at once.")] = 16,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longest answer, in tokens; default: the longest reference's 1.5."
        ),
    ] = None,
    trust_remote_code: TrustsCode = False,
) -> None:
    """Loss and metrics on held-out records, base beside tuned: ft eval out/"""
    folder = run or newest_run()
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
    for table in comparison(result):
        Console(highlight=False).print(table)
    say(f"written to {short(directory.evaluation)}")

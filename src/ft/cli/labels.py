"""Labels for a reader: probabilities as bars, metrics in a line, a confusion matrix, a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ft.cli.asking import Question, parse_record, read_records
from ft.cli.output import say
from ft.cli.preview_figures import bar
from ft.cli.visible import marks_for, one_line
from ft.runtime import Problem, UserError

if TYPE_CHECKING:
    from ft.evaluate.classifier import Classifier

_BAR_CELLS = 30
_TEXT_WIDTH = 64
_NAME_WIDTH = 40
_MOST_IN_MATRIX = 12
"""Labels whose confusion fits on a screen."""
_BATCH = 16

_IN_WORDS = {
    "eval_accuracy": "accuracy",
    "eval_f1_macro": "macro F1",
    "eval_f1_micro": "micro F1",
    "eval_mse": "MSE",
    "eval_mae": "MAE",
    "eval_pearson": "Pearson",
    "eval_r2": "R2",
}


def ask_classifier(classifier: Classifier, question: Question) -> None:
    """Tells the labels of what is asked on the command line.

    Raises:
        UserError: it is asked as a model that writes would be.
    """
    if question.is_chat or question.is_raw:
        option = "--chat" if question.is_chat else "--raw"
        what = f"{option}: this run tells labels, it does not write"
        raise UserError(Problem(what, fix='ask with --prompt "TEXT", --record or --input'))
    fields = question.named_fields()
    classifier.require_known(list(fields))
    if question.input is not None:
        _ask_file(classifier, question.input, question.output, fields)
        return
    record = parse_record(question.record, "--record") if question.record else {}
    prompt = classifier.prompt({**record, **fields}, text=question.prompt)
    for line in prediction_lines(classifier.predictions([prompt])[0], sys.stdout.encoding):
        say(line)


def prediction_lines(prediction: Mapping[str, Any], encoding: str) -> Iterator[str]:
    """A label a line, the likeliest first, with its probability as a bar; or the number."""
    if "probabilities" not in prediction:
        yield f"{prediction['prediction']:.6g}"
        return
    marks = marks_for(encoding)
    by_share = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
    names = [one_line(name, marks, _NAME_WIDTH) for name, _ in by_share]
    width = max(map(len, names))
    for name, (_, share) in zip(names, by_share, strict=True):
        yield f"{name:<{width}}  {share:>6.1%}  {bar(share, _BAR_CELLS, marks)}"


def _ask_file(
    classifier: Classifier, source: Path, target: Path | None, fields: dict[str, Any]
) -> None:
    """One JSON line a record, with its ``prediction``; nothing is written if one can't be asked."""
    records = list(read_records(source))
    prompts = [classifier.prompt({**record, **fields}) for record in records]
    out = target.open("w", encoding="utf-8") if target else sys.stdout
    is_escaped = target is None and sys.stdout.isatty()
    try:
        for start in range(0, len(records), _BATCH):
            told = classifier.predictions(prompts[start : start + _BATCH])
            for record, prediction in zip(records[start : start + _BATCH], told, strict=True):
                line = json.dumps({**record, **prediction}, ensure_ascii=is_escaped)
                out.write(line + "\n")
            out.flush()
    finally:
        if target:
            out.close()


# -- what evaluations measure -----------------------------------------------------------------


def figures_in_words(event: Mapping[str, Any]) -> str:
    """Of an evaluation, beside its loss: `, accuracy 76.5 %, macro F1 0.755`; empty if none."""
    words = [
        f", {name} {_figure(key, event[key])}"
        for key, name in _IN_WORDS.items()
        if key in event and key != "eval_f1_micro"
    ]
    return "".join(words)


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{100 * value:.1f} %" if key == "eval_accuracy" else f"{value:.3f}"


def example_lines(event: Mapping[str, Any], encoding: str) -> Iterator[str]:
    """The same held-out records, before and after."""
    marks = marks_for(encoding)
    rows = [("label", "before", f"after (step {event['step']})", "text")]
    for before, after in zip(event["before"], event["after"], strict=True):
        text = one_line(after["text"], marks, _TEXT_WIDTH)
        rows.append((_told(after["label"]), _answer(before), _answer(after), text))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    yield f"{len(rows) - 1} held-out records, before and after:"
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield f"  {'  '.join(cells)}  {row[3]}".rstrip()


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "(none)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _answer(prediction: Mapping[str, Any]) -> str:
    told = prediction["prediction"]
    if not isinstance(told, str):
        return _told(told)
    return f"{told} {prediction['probabilities'][told]:.0%}"


def label_comparison(result: Mapping[str, Any]) -> Iterator[Table]:
    """Base beside tuned, and which label the tuned model takes for which."""
    pair = ("base", "tuned")
    table = Table(title=f"{result['num_heldout_records']} held-out records")
    table.add_column("")
    for name in pair:
        table.add_column(name, justify="right")
    table.add_row("loss", *[f"{result[name]['eval_loss']:.4f}" for name in pair])
    for key, words in _IN_WORDS.items():
        if key in result["tuned"]:
            table.add_row(words, *[_figure(key, result[name][key]) for name in pair])
    for label in result["tuned"].get("f1_of_label", {}):
        scores = [f"{result[name]['f1_of_label'][label]:.3f}" for name in pair]
        table.add_row(_name(f"F1 of {label}"), *scores)
    yield table
    if "confusion" in result["tuned"]:
        labels = list(result["tuned"]["f1_of_label"])
        if len(labels) <= _MOST_IN_MATRIX:
            yield _matrix(labels, result["tuned"]["confusion"])


def _matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Table:
    table = Table(title="tuned: records of a label (rows), told as (columns)")
    table.add_column("")
    for label in labels:
        table.add_column(_name(label), justify="right")
    for label, row in zip(labels, counts, strict=True):
        table.add_row(_name(label), *[f"{count:,}" for count in row])
    return table


def _name(text: str) -> Text:
    """A label in a table; its brackets are its own, and none of rich's markup."""
    return Text(one_line(text, marks_for(sys.stdout.encoding), _NAME_WIDTH))

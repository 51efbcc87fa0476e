"""A preview in a terminal, or in a pipe: the same lines, with color or with brackets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from ft.cli.preview_figures import bar, bucket_label, label_counts, repetition, run_lines
from ft.cli.visible import Marks, encodable, marks_for, one_line, visible
from ft.data.account import Account
from ft.data.lengths import LengthSummary
from ft.data.preview import (
    DataPreview,
    RecordPreview,
    RowPreview,
    SetPreview,
    StepsPreview,
)
from ft.data.report import LABELS_SHOWN, TOO_LONG, DatasetReport, count

TRAINED, MASKED, QUIET, HEADING, BAD = "bold green", "dim", "dim", "bold", "bold red"
_MAX_WIDTH = 120
_PIPE_WIDTH = 80
_BAR_CELLS = 32
_LABEL_CELLS = 10
_MOST_OF_LABEL = 28
NUM_EXAMPLES = 3
"""So many examples of each kind of loss are shown."""


@dataclass(frozen=True)
class Screen:
    """Where a preview is shown.

    Attributes:
        console: Measures and colors.
        marks: What its encoding can draw.
        has_color: Else what is trained stands in brackets.
        width: Columns that lines are wrapped to; None = never wrapped.
    """

    console: Console
    marks: Marks
    has_color: bool
    width: int | None

    @classmethod
    def of_output(cls) -> Screen:
        """Standard output, as it is."""
        console = Console(highlight=False)
        has_color = console.color_system is not None and not console.no_color
        if not has_color:
            console = Console(highlight=False, color_system=None)
        width = min(console.width, _MAX_WIDTH) if console.is_terminal else None
        return cls(console, marks_for(console.encoding), has_color, width)

    def render(self, line: Text) -> str:
        """A line with its escape codes, if there are any."""
        with self.console.capture() as captured:
            self.console.print(line, soft_wrap=True)
        return encodable(captured.get(), self.console.encoding)

    def fold(self, text: Text, indent: int) -> list[Text]:
        """The text in lines that fit, with room for an indent."""
        if self.width is None:
            return list(text.split("\n", allow_blank=True))
        return list(text.wrap(self.console, max(self.width - indent, 20)))

    def rule(self, title: Text) -> Text:
        """A heading across the screen."""
        head = self.marks.rule * 2
        rest = (self.width or _PIPE_WIDTH) - title.cell_len - len(head) - 2
        tail = self.marks.rule * max(rest, len(head))
        return Text.assemble((head, QUIET), " ", title, " ", (tail, QUIET))

    def labeled(self, label: str, text: Text) -> Iterator[Text]:
        """A label in front of a text, whose further lines stand below its first."""
        for number, line in enumerate(self.fold(text, indent=_LABEL_CELLS)):
            yield Text.assemble(f"{'' if number else label:<{_LABEL_CELLS}}", line)


def render_preview(preview: DataPreview, screen: Screen, *, shows_ids: bool) -> Iterator[str]:
    """A preview as lines, ready to be written."""
    if any(each.records for each in preview.sets):
        yield screen.render(_legend(screen, preview.tells_labels))
    for each in preview.sets:
        for line in _set(each, preview, screen, shows_ids):
            yield screen.render(line)
    if preview.steps is not None:
        for line in _run(preview.steps, preview.sequence_len, screen):
            yield screen.render(line)
    for warning in preview.warnings:
        for line in screen.labeled("warning", Text(one_line(warning, screen.marks), "yellow")):
            yield screen.render(line)


# -- one data set -----------------------------------------------------------------------------


def _legend(screen: Screen, tells_labels: bool) -> Text:
    marks = screen.marks
    kinds: list[str | tuple[str, str]] = []
    if not tells_labels and screen.has_color:
        kinds = [("trained", TRAINED), "  ", ("not trained", MASKED), "  "]
    elif not tells_labels:
        kinds = [f"{marks.opening}trained{marks.closing}  not trained  "]
    signs = f"{marks.newline} line break  {marks.space} space at an edge  {marks.tab} tab"
    return Text.assemble(*kinds, (signs, QUIET))


def _set(each: SetPreview, preview: DataPreview, screen: Screen, shows_ids: bool) -> Iterator[Text]:
    title = Text.assemble((one_line(each.path, screen.marks), HEADING))
    title.append(f" {screen.marks.dot} {one_line(each.type, screen.marks)}", QUIET)
    if each.is_heldout:
        title.append(f" {screen.marks.dot} held out", QUIET)
    yield Text()
    yield screen.rule(title)
    for record in each.records:
        yield Text()
        yield from _record(record, screen, shows_ids)
    if each.account is not None:
        yield Text()
        yield from _account(each.account, preview, screen)


def _record(record: RecordPreview, screen: Screen, shows_ids: bool) -> Iterator[Text]:
    place = Text(one_line(str(record.origin), screen.marks), "cyan")
    if record.error:
        yield Text.assemble(place, "  ", (one_line(record.error, screen.marks, 200), BAD))
    for row in record.rows:
        part = f"{row.part}: " if row.part else ""
        learned = f"{row.num_trained:,} trained"
        style = QUIET if row.num_trained else BAD
        if row.label:
            label = one_line(row.label, screen.marks, _MOST_OF_LABEL)
            learned, style = f"label {label}", TRAINED
        size = f"{part}{count(len(row.tokens), 'token')}, "
        yield Text.assemble(place, "  ", (size, style if style == BAD else QUIET), (learned, style))
        body = [_row_text(row, screen), *([_row_ids(row, screen)] if shows_ids else [])]
        for text in body:
            lines = screen.fold(text, indent=4)
            for line in lines[:-1] if not lines[-1].plain else lines:
                yield Text.assemble((f"  {screen.marks.rail} ", QUIET), line)


def _row_text(row: RowPreview, screen: Screen) -> Text:
    marks = screen.marks
    text = Text()
    was_trained = False
    for span in row.spans:
        _bracket(text, screen, was_trained, span.is_trained)
        was_trained = span.is_trained
        style = TRAINED if span.is_trained else MASKED
        if span.is_gap:
            shown = f" {marks.ellipsis} {count(span.num_tokens, 'token')} {marks.ellipsis} "
            text.append(shown, f"{style} italic")
        else:
            style = f"{style} underline" if span.is_special else style
            text.append(visible(span.text, marks), style)
    _bracket(text, screen, was_trained, False)
    return text


def _row_ids(row: RowPreview, screen: Screen) -> Text:
    text = Text("ids: ", QUIET)
    was_trained = False
    for token in row.tokens:
        if was_trained and not token.is_trained:
            _bracket(text, screen, True, False)
        text.append(" ")
        if token.is_trained and not was_trained:
            _bracket(text, screen, False, True)
        was_trained = token.is_trained
        piece = one_line(token.piece, screen.marks)
        text.append(f"{token.id}:{piece}", TRAINED if token.is_trained else MASKED)
    _bracket(text, screen, was_trained, False)
    return text


def _bracket(text: Text, screen: Screen, was_trained: bool, is_trained: bool) -> None:
    """Where color can't tell, a bracket does."""
    if not screen.has_color and was_trained != is_trained:
        text.append(screen.marks.opening if is_trained else screen.marks.closing)


# -- its account ------------------------------------------------------------------------------


def _account(account: Account, preview: DataPreview, screen: Screen) -> Iterator[Text]:
    report = account.report
    if account.lengths is not None:
        yield from _chart(account, account.lengths, preview.sequence_len, screen)
        yield Text()
        yield from _label_chart(report, screen) if preview.tells_labels else _meter(report, screen)
    kept = f"{report.num_kept:,} of {count(report.num_read, 'record')}"
    yield from screen.labeled("kept", Text(kept))
    yield from _losses(account, screen)
    yield from _duplicates(account, screen)
    for note in report.notes:
        yield from screen.labeled("note", Text(one_line(note, screen.marks), "yellow"))


def _meter(report: DatasetReport, screen: Screen) -> Iterator[Text]:
    """The share of the tokens that is trained."""
    share = report.num_trained_tokens / max(report.num_tokens, 1)
    trained = bar(share, _BAR_CELLS, screen.marks)
    rest = screen.marks.space * (_BAR_CELLS - len(trained))
    of_all = f"  {share:.1%} of {count(report.num_tokens, 'token')}"
    meter = Text.assemble((trained, "green"), (rest, QUIET), of_all)
    yield from screen.labeled("trained", meter)


def _label_chart(report: DatasetReport, screen: Screen) -> Iterator[Text]:
    """How many records have each label; a regression has none to count."""
    counts = label_counts(report)
    if not counts:
        return
    shown = counts[:LABELS_SHOWN]
    names = [one_line(name, screen.marks, _MOST_OF_LABEL) for name, _, _ in shown]
    width = max(map(len, (*names, "label")))
    most = max(shown[0][1], 1)
    yield Text(f"{'label':>{width}}   records", QUIET)
    for name, (_, number, share) in zip(names, shown, strict=True):
        yield Text.assemble(
            (f"{name:>{width}}", "" if number else BAD),
            f"  {number:>8,}  {share:>4.0%}  ",
            (bar(number / most, _BAR_CELLS, screen.marks), "green"),
        )
    if len(counts) > len(shown):
        yield Text(f"and {count(len(counts) - len(shown), 'more label')}", QUIET)


def _losses(account: Account, screen: Screen) -> Iterator[Text]:
    """What is left out or cut, by reason, each with a few examples."""
    report = account.report
    for reason, tally in report.drops.items():
        style = "" if tally.is_consented else BAD
        text = Text(f"{tally.count:,}: {one_line(reason, screen.marks)}", style)
        yield from screen.labeled("left out", text)
        for drop in tally.examples[:NUM_EXAMPLES]:
            yield from screen.labeled("", Text(one_line(str(drop), screen.marks, 160)))
            if drop.record:
                record = one_line(drop.record, screen.marks, 100)
                yield from screen.labeled("", Text(record, QUIET))
    if report.num_truncated:
        yield from screen.labeled("cut", Text(count(report.num_truncated, "record"), "yellow"))
        for origin, num_tokens in account.truncated:
            place = one_line(str(origin), screen.marks)
            yield from screen.labeled("", Text(f"{place}: {num_tokens:,} tokens"))


def _duplicates(account: Account, screen: Screen) -> Iterator[Text]:
    found = account.duplicates
    if found.pair is None:
        return
    share = found.num_rows / account.report.num_rows
    rows = f"{count(found.num_rows, 'row')} ({share:.1%})"
    example = one_line(repetition(found), screen.marks)
    yield from screen.labeled("repeated", Text.assemble((rows, "yellow"), f": {example}"))
    if found.num_in_training:
        rows = count(found.num_in_training, "held-out row")
        what = f"{rows} trained on, too: the held-out loss will flatter"
        yield from screen.labeled("", Text(what, BAD))


def _chart(
    account: Account, lengths: LengthSummary, sequence_len: int, screen: Screen
) -> Iterator[Text]:
    marks = screen.marks
    labels = [bucket_label(each, marks) for each in lengths.buckets]
    too_long = account.report.drops.get(TOO_LONG)
    beyond = f"over {sequence_len:,}"
    width = max(len(label) for label in (*labels, beyond if too_long else "", "tokens"))
    most = max(each.num_rows for each in lengths.buckets)
    yield Text(f"{'tokens':>{width}}      rows", QUIET)
    for label, each in zip(labels, lengths.buckets, strict=True):
        share = each.num_rows / lengths.num_rows
        yield Text.assemble(
            f"{label:>{width}}  {each.num_rows:>8,}  {share:>4.0%}  ",
            (bar(each.num_rows / most, _BAR_CELLS, marks), "cyan"),
        )
    if too_long:
        cells = bar(min(too_long.count / most, 1.0), _BAR_CELLS, marks)
        yield Text.assemble(
            f"{beyond:>{width}}  {too_long.count:>8,}        ", (cells, "red"), (" left out", "red")
        )
    yield Text(_quantiles(lengths, marks), QUIET)
    fill = f"the longest row takes {lengths.longest / sequence_len:.0%} of it"
    yield Text(f"sequence_len {sequence_len:,}: {fill}", QUIET)


def _quantiles(lengths: LengthSummary, marks: Marks) -> str:
    return f" {marks.dot} ".join(f"{name} {value:,}" for name, value in lengths.quantiles.items())


# -- the run ----------------------------------------------------------------------------------


def _run(steps: StepsPreview, sequence_len: int, screen: Screen) -> Iterator[Text]:
    yield Text()
    yield screen.rule(Text("the run", HEADING))
    for label, text in run_lines(steps, sequence_len):
        yield from screen.labeled(label, Text(text))

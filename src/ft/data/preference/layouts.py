"""The layouts that need no chat template: source columns times a style of turns, one line each.

Texts are those of axolotl's functions of the same names, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ft.data.layout import (
    Fields,
    StrategyOptions,
    optional_written_field,
    text_field,
    written_field,
)
from ft.data.preference.records import Comparison, Judged, Preference, PreferenceRecord, Steps
from ft.data.preference.sources import (
    Part,
    column,
    is_desirable,
    step_labels,
    step_texts,
    turn,
    turns_field,
)
from ft.data.preference.turns import LLAMA3, NAMED_STYLES, ZEPHYR, TurnStyle
from ft.data.segments import RecordError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Render = Callable[[Fields], PreferenceRecord]
Build = Callable[[DatasetSpec, StrategyOptions, "PreTrainedTokenizerBase"], Render]


@dataclass(frozen=True)
class PreferenceLayout:
    """A registered layout.

    Attributes:
        build: Makes what renders the records of one data set.
        note: What a user should know who chose it for this data set; empty = nothing.
    """

    build: Build
    note: Callable[[DatasetSpec], str] = lambda spec: ""


def _plain(render: Render, note: str = "") -> PreferenceLayout:
    """A layout that is the same for every data set."""
    return PreferenceLayout(lambda spec, options, tokenizer: render, lambda spec: note)


class Source(Protocol):
    """Columns that are put into words by a style."""

    def render(self, record: Fields, style: TurnStyle) -> PreferenceRecord:
        """The record in the words of `style`."""


def _in_every_style(sources: Mapping[str, Source]) -> dict[str, PreferenceLayout]:
    """`STYLE.SOURCE` -> layout."""
    return {
        f"{style_name}.{name}": _plain(partial(source.render, style=style))
        for style_name, style in NAMED_STYLES.items()
        for name, source in sources.items()
    }


# -- two answers ----------------------------------------------------------------------------------

_CHOSEN, _REJECTED = column("chosen"), column("rejected")


@dataclass(frozen=True)
class PairSource:
    """Where a prompt and its two answers are.

    Attributes:
        prompt: What the user said.
        chosen: The better answer.
        rejected: The worse one.
        has_system: A system text is read from `system`, if it is there and not empty.
    """

    prompt: Part
    chosen: Part = _CHOSEN
    rejected: Part = _REJECTED
    has_system: bool = True

    def render(self, record: Fields, style: TurnStyle) -> Preference:
        """The record in the words of `style`."""
        return Preference(
            style.prompt(_turns(record, self.prompt, self.has_system)),
            style.answer(self.chosen(record)),
            style.answer(self.rejected(record)),
        )


def _turns(record: Fields, prompt: Part, has_system: bool) -> Iterator[tuple[str, str]]:
    system = optional_written_field(record, "system") if has_system else ""
    if system:
        yield "system", system
    yield "user", prompt(record)


_PAIRS: dict[str, PairSource] = {
    "default": PairSource(
        column("prompt", "input", "question", "instruction"),
        column("chosen", "chosen_response"),
        column("rejected", "rejected_response"),
    ),
    "argilla": PairSource(
        column("instruction"), column("chosen_response"), column("rejected_response")
    ),
    "argilla_chat": PairSource(
        turn("chosen", 0), turn("chosen", 1), turn("rejected", 1), has_system=False
    ),
    "icr": PairSource(column("input")),
    "intel": PairSource(column("question")),
    "prompt_pairs": PairSource(column("prompt")),
    "ultra": PairSource(column("prompt"), turn("chosen", 1), turn("rejected", 1)),
}


def plain_pair(record: Fields) -> Preference:
    """Columns that hold the finished texts."""
    return Preference(
        text_field(record, "prompt"), text_field(record, "chosen"), text_field(record, "rejected")
    )


def _nectar(record: Fields) -> Preference:
    ranked = sorted(turns_field(record, "answers"), key=_rank)
    if len(ranked) < 2:
        raise RecordError("fewer than two answers", repr(ranked)[:200])
    chosen, rejected = (text_field(each, "answer") for each in (ranked[-1], ranked[-2]))
    prompt = ZEPHYR.prompt([("system", ""), ("user", written_field(record, "prompt"))])
    return Preference(prompt, ZEPHYR.answer(chosen), ZEPHYR.answer(rejected))


def _rank(answer: Fields) -> float:
    rank = answer.get("rank")
    if not isinstance(rank, int | float):
        raise RecordError("an answer without a rank", repr(dict(answer))[:200])
    return rank


PAIR_LAYOUTS = {
    **_in_every_style(_PAIRS),
    "passthrough.default": _plain(plain_pair),
    "zephyr.nectar": _plain(
        _nectar,
        note="zephyr.nectar chooses the answer of the highest rank and rejects the second highest, "
        "as axolotl does: if 1 is the best rank in these records, turn the ranks around",
    ),
}

# -- one judged answer ----------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgedSource:
    """Where a prompt and its judged answer are."""

    prompt: Part

    def render(self, record: Fields, style: TurnStyle) -> Judged:
        """The record in the words of `style`."""
        return Judged(
            style.prompt(_turns(record, self.prompt, has_system=True)),
            style.answer(written_field(record, "completion")),
            is_desirable(record, "label"),
        )


@dataclass(frozen=True)
class JudgedConversation:
    """A conversation whose last turn is judged."""

    name: str = "completion"

    def render(self, record: Fields, style: TurnStyle) -> Judged:
        """The record in the words of `style`."""
        *history, last = turns_field(record, self.name)
        turns = [(written_field(each, "role"), written_field(each, "content")) for each in history]
        answer = style.answer(written_field(last, "content"))
        return Judged(style.prompt(turns), answer, is_desirable(record, "label"))


_JUDGED: dict[str, Source] = {
    "argilla": JudgedSource(column("instruction")),
    "argilla_chat": JudgedConversation(),
    "intel": JudgedSource(column("question")),
    "prompt_pairs": JudgedSource(column("prompt")),
    "ultra": JudgedSource(column("prompt")),
}


def plain_judged(record: Fields) -> Judged:
    """Columns that hold the finished texts."""
    return Judged(
        text_field(record, "prompt"),
        text_field(record, "completion"),
        is_desirable(record, "label"),
    )


JUDGED_LAYOUTS = _in_every_style(_JUDGED)

# -- for reward models ----------------------------------------------------------------------------


def _llama3_comparison(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Render:
    bos, eos = tokenizer.bos_token or "", tokenizer.eos_token or ""

    def render(record: Fields) -> Comparison:
        pair = _PAIRS["icr"].render(record, LLAMA3)
        opening = bos + pair.prompt
        wholes = [opening + answer for answer in (pair.chosen, pair.rejected)]
        return Comparison(opening, *(whole.removesuffix(eos) + eos for whole in wholes))

    return render


def _steps(record: Fields) -> Steps:
    completions = step_texts(record, "completions")
    labels = step_labels(record, "labels")
    if len(completions) != len(labels) or not labels:
        raise RecordError(
            "steps and labels don't match",
            f"{len(completions)} completions, {len(labels)} labels",
        )
    return Steps(text_field(record, "prompt"), completions, labels)


LLAMA3_COMPARISON = PreferenceLayout(_llama3_comparison)
STEPS_LAYOUTS = {"stepwise_supervised": _plain(_steps)}

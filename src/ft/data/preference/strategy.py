"""`rl:` and `type:` -> what lays out preference records: the objectives and their layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft.data.layout import Fields, StrategyOptions
from ft.data.preference.chat import CHAT_PAIR_LAYOUTS, COMPARISON_LAYOUT, REMAINDER_LAYOUTS
from ft.data.preference.layouts import (
    JUDGED_LAYOUTS,
    LLAMA3_COMPARISON,
    PAIR_LAYOUTS,
    STEPS_LAYOUTS,
    PreferenceLayout,
    Render,
    plain_judged,
    plain_pair,
)
from ft.data.preference.mapping import JUDGED_MAPPING, PAIR_MAPPING, MappingKind, check_mapping
from ft.data.preference.records import Judged, Preference, PreferenceRecord
from ft.data.preference.tokens import (
    EndedById,
    EndedByText,
    Rows,
    Scored,
    Stepwise,
    Tokenization,
)
from ft.data.segments import RecordError
from ft.runtime.errors import Problem, UserError
from ft.spec.nearest import nearest
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Objective:
    """What is there for the records of one objective.

    Attributes:
        layouts: By name; a name without a dot is short for `NAME.default`.
        tokenization: How texts become rows.
        plain: Lays out records without a `type:`; None if there has to be one.
        mapping: What `type:` as a mapping may say; None if it may not be one.
    """

    layouts: Mapping[str, PreferenceLayout]
    tokenization: Callable[[DatasetSpec, StrategyOptions], Tokenization]
    plain: Render | None = None
    mapping: MappingKind | None = None


def _stepwise(spec: DatasetSpec, options: StrategyOptions) -> Tokenization:
    return Stepwise(
        spec.step_separator,
        options.sequence_len,
        spec.max_completion_length,
        spec.train_on_last_step_only,
    )


_DPO = Objective(
    {**PAIR_LAYOUTS, **CHAT_PAIR_LAYOUTS},
    lambda spec, options: EndedByText(has_single_bos=True),
    plain_pair,
    PAIR_MAPPING,
)

OBJECTIVES: dict[str, Objective] = {
    "dpo": _DPO,
    "ipo": _DPO,
    "simpo": Objective(_DPO.layouts, lambda spec, options: EndedById(), plain_pair, PAIR_MAPPING),
    "orpo": Objective(REMAINDER_LAYOUTS, lambda spec, options: EndedById(), plain_pair),
    "kto": Objective(
        JUDGED_LAYOUTS,
        lambda spec, options: EndedByText(has_single_bos=False),
        plain_judged,
        JUDGED_MAPPING,
    ),
    "reward_model": Objective(
        {
            "bradley_terry.chat_template": COMPARISON_LAYOUT,
            "bradley_terry.llama3": LLAMA3_COMPARISON,
            "bradley_terry.llama3.icr": LLAMA3_COMPARISON,
        },
        lambda spec, options: Scored(options.sequence_len),
    ),
    "process_reward_model": Objective(STEPS_LAYOUTS, _stepwise),
}
"""The values of `rl:`, and the two keys that ask for a reward model."""


@dataclass(frozen=True)
class PreferenceStrategy:
    """Lays out and tokenizes the records of one data set.

    Attributes:
        tokenizer: The model's tokenizer.
        tokenization: How texts become rows.
        layout: Record -> texts.
        notes: What a user should know of the layout.
    """

    tokenizer: PreTrainedTokenizerBase
    tokenization: Tokenization
    layout: Render
    notes: tuple[str, ...] = ()

    def render(self, record: Fields) -> PreferenceRecord:
        """The record's texts.

        Raises:
            RecordError: It lacks something that the layout needs, or a text is empty.
        """
        rendered = self.layout(record)
        if isinstance(rendered, Preference | Judged):
            _refuse_empty_texts(rendered)
        return rendered

    def tokenize(self, rendered: Sequence[PreferenceRecord]) -> list[Rows]:
        """The rows of each record by part; the tokenizer is called once for all of them.

        Labels are ids where a token is trained; at the ends of `steps`, they are classes.
        """
        return self.tokenization.rows(rendered, self.tokenizer) if rendered else []


def check_preference(objective: str, spec: DatasetSpec) -> None:
    """Finds what is wrong with `type:` for an objective, without a tokenizer.

    Args:
        objective: A value of `rl:`, or `reward_model` or `process_reward_model`.
        spec: The entry of `datasets:`.

    Raises:
        UserError: There is no such objective or layout, or a format that can't be filled.
    """
    _find_layout(objective, spec)


def preference_strategy(
    objective: str,
    spec: DatasetSpec,
    options: StrategyOptions,
    tokenizer: PreTrainedTokenizerBase,
) -> PreferenceStrategy:
    """The strategy that `type:` asks for.

    Args:
        objective: A value of `rl:`, or `reward_model` or `process_reward_model`.
        spec: The entry of `datasets:`.
        options: The keys beside `datasets:`.
        tokenizer: The model's tokenizer.

    Raises:
        UserError: There is no such objective or layout, a format that can't be filled, or no chat
            template.
    """
    layout = _find_layout(objective, spec)
    note = layout.note(spec)
    return PreferenceStrategy(
        tokenizer,
        OBJECTIVES[objective].tokenization(spec, options),
        layout.build(spec, options, tokenizer),
        (note,) if note else (),
    )


def _find_layout(objective: str, spec: DatasetSpec) -> PreferenceLayout:
    if objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        what = f"no preference objective {objective!r}"
        raise UserError(Problem(what, fix=f"use one of {known}"))
    entry = OBJECTIVES[objective]
    if isinstance(spec.type, str):
        return _named_layout(objective, spec.type)
    if spec.type is None and entry.plain is not None:
        render = entry.plain
    elif spec.type is not None and entry.mapping is not None:
        kind, mapping = entry.mapping, check_mapping(spec.type, entry.mapping)

        def render(record: Fields) -> PreferenceRecord:
            return kind.render(record, mapping)
    else:
        what = "no `type:`" if spec.type is None else "`type:` is a mapping"
        fix = f"name a layout: {', '.join(entry.layouts)}"
        raise UserError(Problem(f"{spec.path}: {what}, which {objective} can't read", fix=fix))
    return PreferenceLayout(lambda spec, options, tokenizer: render)


def _named_layout(objective: str, name: str) -> PreferenceLayout:
    layouts = OBJECTIVES[objective].layouts
    layout = layouts.get(name) or layouts.get(f"{name}.default")
    if layout is not None:
        return layout
    elsewhere = [other for other, entry in OBJECTIVES.items() if name in entry.layouts]
    guess = nearest(name, layouts)
    if elsewhere:
        fix = f"it is a layout of {', '.join(elsewhere)}; {objective} has {', '.join(layouts)}"
    else:
        fix = f"did you mean {guess}?" if guess else f"use one of {', '.join(layouts)}"
    raise UserError(Problem(f"{objective} has no layout {name!r}", fix=fix))


def _refuse_empty_texts(rendered: Preference | Judged) -> None:
    parts = ("prompt", "chosen", "rejected")
    for part in parts if isinstance(rendered, Preference) else ("prompt", "completion"):
        if not getattr(rendered, part):
            raise RecordError(f"the {part} is empty")

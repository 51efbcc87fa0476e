"""`type: classification`: a text, or two, and its label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft.data.classification.targets import target_of
from ft.data.layout import Fields, LayoutFields, StrategyOptions, text_field
from ft.data.segments import Labeled, RecordError
from ft.runtime.errors import Problem, UserError
from ft.spec.classification import Classification
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CLASSIFICATION_TYPE = "classification"
TEXT_FIELD = "text"


@dataclass(frozen=True)
class ClassificationLayout:
    """A text and its label.

    Attributes:
        text: Field of the text.
        pair: Field of a second text; None = there is none.
        label: Field of the label.
        task: The labels that there are.
        max_tokens: Where a text is cut; None = it is too long then, and judged so.
        cuts_left: The beginning is cut off.
        separator: What the tokenizer writes between two texts; None = nothing.
    """

    text: str
    pair: str | None
    label: str
    task: Classification
    max_tokens: int | None
    cuts_left: bool
    separator: str | None

    @property
    def fields(self) -> LayoutFields:
        """Texts are read, the label is learned."""
        return _fields(self.text, self.pair, self.label)

    def render(self, record: Fields) -> Labeled:
        """The texts and what is learned of them."""
        if self.label not in record:
            raise RecordError(
                f"missing field {self.label!r}", f"the record has {', '.join(map(str, record))}"
            )
        return self._labeled(record, target_of(record[self.label], self.task))

    def render_prompt(self, record: Fields) -> Labeled:
        """The texts alone."""
        return self._labeled(record, ())

    def _labeled(self, record: Fields, target: tuple[int, ...]) -> Labeled:
        text = text_field(record, self.text)
        pair = None if self.pair is None else text_field(record, self.pair)
        if pair is not None and self.separator and self.separator in f"{text} {pair}":
            what = f"{self.separator!r} is what keeps two texts apart"
            raise RecordError("a text holds the separator", what)
        return Labeled(text, pair, target, self.max_tokens, self.cuts_left)


def classification_fields(spec: DatasetSpec) -> LayoutFields:
    """What the layout of a data set reads."""
    return _fields(spec.field or TEXT_FIELD, spec.field_text_pair, spec.field_label)


def _fields(text: str, pair: str | None, label: str) -> LayoutFields:
    texts = (text,) if pair is None else (text, pair)
    return LayoutFields(texts, (label,), default=text)


def classification_layout(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> ClassificationLayout:
    """The layout of a data set."""
    if options.labels is None:
        raise UserError(
            Problem("type: classification lays out labels", fix="set task_type: SEQ_CLS")
        )
    return ClassificationLayout(
        spec.field or TEXT_FIELD,
        spec.field_text_pair,
        spec.field_label,
        options.labels.task,
        options.sequence_len if options.labels.cuts_long else None,
        options.labels.truncation_side == "left",
        tokenizer.sep_token,
    )

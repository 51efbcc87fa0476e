"""The built-in layouts, each a few lines, registered in `LAYOUTS`.

They render what axolotl's layouts of the same names train on, byte for byte.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ft.data import styles
from ft.data.chat import CHAT_TYPE, chat_layout
from ft.data.layout import (
    Fields,
    LayoutFields,
    Strategy,
    StrategyOptions,
    optional_text_field,
    text_field,
)
from ft.data.segments import IGNORE_INDEX, RecordError, Segment, Separate, Tokens
from ft.data.tokenize import check_tokens
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec, MappingLayout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COMPLETION_REACH = 64
"""A completion's text is cut at so many rows of `sequence_len` tokens."""

_CONTEXT_SYSTEM = "Use the following contextual information to concisely answer the question.\n"
_NO_ANSWER = (
    "The context provided does not contain any information about your inquiry. "
    "Therefore, I'm unable to answer your question based on the given context."
)

Part = Callable[[Fields], str]


@dataclass(frozen=True)
class PairLayout:
    """A prompt and its response, tokenized separately.

    Attributes:
        fields: What it reads.
        prompt: Record -> prompt.
        response: Record -> trained text, without its prefix.
        is_prompt_trained: `train_on_inputs`.
        max_tokens: Each of the two is cut there.
    """

    fields: LayoutFields
    prompt: Part
    response: Part
    is_prompt_trained: bool
    max_tokens: int

    def render(self, record: Fields) -> Separate:
        """Prompt, then response and end token."""
        prompt = Segment(self.prompt(record), self.is_prompt_trained)
        response = self.fields.response_prefix + self.response(record)
        segments = (prompt, Segment(response, is_trained=True, ends_turn=True))
        return Separate(segments, self.max_tokens)

    def render_prompt(self, record: Fields) -> Separate:
        """The prompt alone."""
        return Separate((Segment(self.prompt(record)),))


@dataclass(frozen=True)
class CompletionLayout:
    """A text that is trained from its first token to the last, in rows of `sequence_len` tokens."""

    field: str
    sequence_len: int

    @property
    def fields(self) -> LayoutFields:
        """The text's field, which is all that there is."""
        return LayoutFields(prompt=(self.field,), default=self.field)

    def render(self, record: Fields) -> Separate:
        """The text and an end token."""
        segment = Segment(text_field(record, self.field), is_trained=True, ends_turn=True)
        return Separate((segment,), COMPLETION_REACH * self.sequence_len, self.sequence_len)

    def render_prompt(self, record: Fields) -> Separate:
        """The text to go on from."""
        return Separate((Segment(text_field(record, self.field)),))


@dataclass(frozen=True)
class PretokenizedLayout:
    """Records that hold ids and labels; padding, where attention_mask is 0, is taken off."""

    vocabulary_size: int

    @property
    def fields(self) -> LayoutFields:
        """The columns of tokenized records."""
        return LayoutFields(("input_ids",), ("labels",), ("attention_mask",))

    def render(self, record: Fields) -> Tokens:
        """The record's ids and labels, once they are known to be sound."""
        if record.get("input_ids") is None:
            raise RecordError("missing field 'input_ids'", "set `type:` to lay out texts")
        if record.get("labels") is None:
            raise RecordError(
                "missing field 'labels'",
                f"labels is missing: tokenized records need it, {IGNORE_INDEX} where a token "
                "is not trained",
            )
        tokens = check_tokens(record["input_ids"], record["labels"], self.vocabulary_size)
        mask = record.get("attention_mask")
        return tokens if mask is None else _without_padding(tokens, list(mask))

    def render_prompt(self, record: Fields) -> Tokens:
        """The ids as they are given."""
        ids = record["input_ids"]
        return check_tokens(ids, [IGNORE_INDEX] * len(ids), self.vocabulary_size)


def _without_padding(tokens: Tokens, mask: list[int]) -> Tokens:
    if len(mask) != len(tokens.input_ids):
        raise RecordError(
            "unsound tokens",
            f"{len(tokens.input_ids)} input_ids but {len(mask)} in attention_mask",
        )
    kept = [position for position, is_seen in enumerate(mask) if is_seen]
    if kept and kept[-1] - kept[0] + 1 != len(kept):
        raise RecordError("unsound tokens", "attention_mask has a hole")
    window = slice(kept[0], kept[-1] + 1) if kept else slice(0)
    return Tokens(tokens.input_ids[window], tokens.labels[window])


@dataclass(frozen=True)
class BuiltIn:
    """A registered layout: how it is made for a data set."""

    build: Callable[[DatasetSpec, StrategyOptions, PreTrainedTokenizerBase], Strategy]


def pair(fields: LayoutFields, prompt: Part, response: Part) -> BuiltIn:
    """A registered `PairLayout`."""

    def build(
        spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
    ) -> PairLayout:
        return PairLayout(fields, prompt, response, options.train_on_inputs, options.sequence_len)

    return BuiltIn(build)


def _alpaca_prompt(record: Fields) -> str:
    input_text = optional_text_field(record, "input")
    system = styles.ALPACA_SYSTEM_WITH_INPUT if input_text else styles.ALPACA_SYSTEM
    return styles.INSTRUCT.render(system, text_field(record, "instruction"), input_text)


def _context_prompt(record: Fields, question: str) -> str:
    instruction = f"{text_field(record, 'article')}\n===\n{text_field(record, question)}"
    return styles.CHAT.render(_CONTEXT_SYSTEM, instruction, "")


def _context_v2_prompt(record: Fields) -> str:
    context, question = text_field(record, "context"), text_field(record, "question")
    return f"Context: {context}\nQuestion: {question}\n"


def _text(name: str) -> Part:
    return partial(_read_text, name=name)


def _read_text(record: Fields, name: str) -> str:
    return text_field(record, name)


def mapping_layout(layout: MappingLayout, options: StrategyOptions) -> PairLayout:
    """The layout that `type:` as a mapping describes."""

    def prompt(record: Fields) -> str:
        system = optional_text_field(record, layout.field_system)
        if layout.field_system not in record:
            system = layout.system_prompt
        style = styles.PromptStyle(layout.system_format, layout.format, layout.no_input_format)
        return style.render(
            system,
            text_field(record, layout.field_instruction),
            optional_text_field(record, layout.field_input),
        )

    fields = LayoutFields(
        prompt=(layout.field_instruction,),
        response=(layout.field_output,),
        optional=(layout.field_input, layout.field_system),
        default=layout.field_instruction,
    )
    response = _text(layout.field_output)
    return PairLayout(fields, prompt, response, options.train_on_inputs, options.sequence_len)


def check_mapping(layout: MappingLayout) -> None:
    """Raises a UserError if a format has a placeholder that nothing fills."""
    allowed = {
        "system_format": {"system"},
        "format": {"instruction", "input"},
        "no_input_format": {"instruction"},
    }
    for key, names in allowed.items():
        text = getattr(layout, key)
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise UserError(
                Problem(f"type: {key}: {error}", source=text, fix="a brace as text is doubled: {{")
            ) from None
        if unknown := sorted(found - names):
            raise UserError(
                Problem(
                    f"type: {key}: nothing fills {{{unknown[0]}}}",
                    source=text,
                    fix=f"use {', '.join(f'{{{name}}}' for name in sorted(names))}; "
                    "a brace as text is doubled: {{",
                )
            )


def _completion(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> CompletionLayout:
    return CompletionLayout(spec.field or "text", options.sequence_len)


_CONTEXT_QA = pair(
    LayoutFields(prompt=("article", "question"), response=("answer",), default="question"),
    partial(_context_prompt, question="question"),
    _text("answer"),
)

LAYOUTS: dict[str, BuiltIn] = {
    "alpaca": pair(
        LayoutFields(
            prompt=("instruction",),
            response=("output",),
            optional=("input",),
            default="instruction",
        ),
        _alpaca_prompt,
        _text("output"),
    ),
    "context_qa": _CONTEXT_QA,
    "context_qa.load_v2": pair(
        LayoutFields(
            prompt=("context", "question"),
            response=("answer",),
            default="question",
            response_prefix="Answer: ",
        ),
        _context_v2_prompt,
        _text("answer"),
    ),
    "context_qa.load_404": pair(
        LayoutFields(prompt=("article", "unanswerable_question"), default="unanswerable_question"),
        partial(_context_prompt, question="unanswerable_question"),
        lambda record: _NO_ANSWER,
    ),
    "completion": BuiltIn(_completion),
    CHAT_TYPE: BuiltIn(chat_layout),
}
"""Name -> layout; `NAME.load` is the same as `NAME`."""


def built_in(type_name: str) -> BuiltIn | None:
    """The layout of that name, if there is one."""
    return LAYOUTS.get(type_name) or LAYOUTS.get(type_name.removesuffix(".load"))

"""llama2_chat: conversations in the one string that Llama 2's chat models were trained on.

The whole string is tokenized at once, and its trained parts are found by counting the tokens of
its pieces, so only a tokenizer of Llama 2's kind can be used. What axolotl pads to `sequence_len`
stands here without padding: those tokens were neither seen nor trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft.data.layout import Fields, LayoutFields, StrategyOptions, objects_field, text_field
from ft.data.layouts.pair import BuiltIn
from ft.data.segments import IGNORE_INDEX, RecordError, Tokens
from ft.data.tokenize import encode_text
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_FIELD = "prompt"
"""The field that a single question fills, where no history is given."""

USER, MODEL = "[INST]", "[/INST]"
_FIELD = "conversations"
_ROLES = {"human": USER, "gpt": MODEL}
_BOS, _EOS = "<s>", "</s>"
_END = f" {_EOS}{_BOS}"
_NUM_END_TOKENS = 3
_DEFAULT_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, "
    "while being safe. Your answers should not include any harmful, unethical, racist, sexist, "
    "toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased "
    "and positive in nature.\n\nIf a question does not make any sense, or is not factually "
    "coherent, explain why instead of answering something not correct. If you don't know the "
    "answer to a question, please don't share false information."
)
_BRACKET, _SPACED_BRACKET = 29961, 518
"""Llama 2's ids of `[` within a word and at its beginning: the latter stands for both."""

Turn = tuple[str, str]
"""Tag and text."""


@dataclass(frozen=True)
class Llama2Layout:
    """A conversation between [INST] and [/INST].

    Attributes:
        tokenizer: Of Llama 2's kind.
        max_tokens: The string is cut there.
    """

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int

    @property
    def fields(self) -> LayoutFields:
        """Either a history, or one question."""
        return LayoutFields(optional=(_FIELD,), default=PROMPT_FIELD)

    def render(self, record: Fields) -> Tokens:
        """The conversation; answers are trained with what ends them."""
        system, turns = _conversation(objects_field(record, _FIELD))
        if turns and turns[-1][0] == USER:
            turns = turns[:-1]
        text = _text(system, turns)
        if not text:
            raise RecordError("no answer in the conversation")
        uncut = encode_text(text, self.tokenizer)
        input_ids = encode_text(text, self.tokenizer, self.max_tokens)
        labels = self._labels(text, input_ids)
        behind_bos = slice(2, len(input_ids) - 2)
        input_ids[behind_bos] = _with_spaced_brackets(input_ids[behind_bos])
        labels[behind_bos] = _with_spaced_brackets(labels[behind_bos])
        return Tokens(input_ids, labels, len(uncut) if len(uncut) > len(input_ids) else None)

    def render_prompt(self, record: Fields) -> Tokens:
        """The conversation up to the last [/INST]."""
        if record.get(_FIELD) is None:
            question = text_field(record, PROMPT_FIELD)
            system, turns = _DEFAULT_SYSTEM, [(USER, question)]
        else:
            system, turns = _conversation(objects_field(record, _FIELD), min_turns=1)
            turns = turns if turns[-1][0] == USER else turns[:-1]
        ids = encode_text(_text(system, turns) + MODEL, self.tokenizer)
        ids[2:] = _with_spaced_brackets(ids[2:])
        return Tokens(ids, [IGNORE_INDEX] * len(ids))

    def _labels(self, text: str, input_ids: Sequence[int]) -> list[int]:
        labels = [IGNORE_INDEX, *input_ids[1:]]
        position = 1
        for exchange in filter(None, text.split(_END)):
            question, separator, answer = exchange.partition(MODEL)
            if not separator or MODEL in answer:
                break
            num_asked = len(encode_text(question + MODEL, self.tokenizer)) - 1
            for at in range(position - 1, min(position + num_asked, len(labels))):
                labels[at] = IGNORE_INDEX
            position += len(encode_text(exchange, self.tokenizer)) - 1 + _NUM_END_TOKENS
        if position < self.max_tokens and position != len(input_ids):
            raise RecordError(
                "pieces and whole are tokenized differently",
                f"{position} tokens in pieces, {len(input_ids)} in one: text like {MODEL} or "
                f"{_EOS} in a turn does that",
            )
        return labels[:position] + [IGNORE_INDEX] * (len(labels) - position)


def _conversation(turns: Sequence[Fields], min_turns: int = 2) -> tuple[str, list[Turn]]:
    """System text and turns, the user's first; a turn without text is left out."""
    system = _DEFAULT_SYSTEM
    if turns and turns[0].get("from") == "system":
        system, turns = text_field(turns[0], "value"), turns[1:]
    if len(turns) < min_turns:
        raise RecordError("no question and answer", f"{len(turns)} turns")
    tags = [_tag(turn) for turn in turns]
    if tags[0] == MODEL:
        turns, tags = turns[1:], tags[1:]
    if any(tag != (USER, MODEL)[position % 2] for position, tag in enumerate(tags)):
        raise RecordError("human and gpt do not alternate")
    found = [
        (tag, text_field(turn, "value"))
        for tag, turn in zip(tags, turns, strict=True)
        if turn.get("value")
    ]
    return system, found


def _tag(turn: Fields) -> str:
    role = turn.get("from")
    if role not in _ROLES:
        raise RecordError(f"unknown role {role!r}", "llama2_chat has system, human and gpt")
    return _ROLES[role]


def _text(system: str, turns: Sequence[Turn]) -> str:
    text = ""
    for position, (tag, words) in enumerate(turns):
        if position == 0:
            text = f"{USER} <<SYS>>\n{system}\n<</SYS>>\n\n{words.strip()}"
        else:
            text += f"{tag} {words.strip()}{_END if position % 2 else ' '}"
    return text


def _with_spaced_brackets(ids: Sequence[int]) -> list[int]:
    return [_SPACED_BRACKET if token == _BRACKET else token for token in ids]


def _llama2_chat(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Llama2Layout:
    if (tokenizer.bos_token, tokenizer.eos_token) != (_BOS, _EOS):
        raise UserError(
            Problem(
                f"llama2_chat writes {_BOS} and {_EOS}, but this tokenizer's tokens are "
                f"{tokenizer.bos_token} and {tokenizer.eos_token}",
                fix="use type: chat_template, which writes what the model was made for",
            )
        )
    return Llama2Layout(tokenizer, options.sequence_len)


LAYOUTS: dict[str, BuiltIn] = {"llama2_chat": BuiltIn(_llama2_chat)}

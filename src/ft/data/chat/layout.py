"""The layout that `type: chat_template` and the keys beside it describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ft.data.chat.ends import EndOfTurn, end_of_turn, end_tokens
from ft.data.chat.messages import Message, Reader
from ft.data.chat.spans import Locator
from ft.data.chat.templates import Template, template_of
from ft.data.layout import Fields, LayoutFields, StrategyOptions, text_field
from ft.data.segments import (
    IGNORE_INDEX,
    CharSpan,
    Conversation,
    EndTokens,
    RecordError,
    Rendered,
    TextParts,
    Tokens,
    Turn,
)
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TYPE = "chat_template"
"""The `type:` of this layout."""

PROMPT_FIELD = "prompt"
"""The field that a single question fills, where no history is given."""

_PLACEHOLDER = "A"
"""Stands for the response when the prompt in front of it is wanted."""

_PROBES = (
    ({"role": "user", "content": "a b"}, {"role": "assistant", "content": "c d"}),
    (
        {"role": "system", "content": "s t"},
        {"role": "user", "content": "a b"},
        {"role": "assistant", "content": "c d"},
        {"role": "user", "content": "e f"},
        {"role": "assistant", "content": "g h"},
    ),
)
"""Conversations that show how a template writes."""


@dataclass(frozen=True)
class ChatLayout:
    """A conversation in the words of a chat template.

    Attributes:
        tokenizer: The model's.
        template: What writes the conversation.
        spec: Names of fields, properties and roles, and what is trained.
        are_inputs_trained: Contents of all roles are trained.
        ends: Tokens that end a turn, one entry a kind.
    """

    tokenizer: PreTrainedTokenizerBase
    template: Template
    spec: DatasetSpec
    are_inputs_trained: bool
    ends: tuple[EndTokens, ...]

    @property
    def fields(self) -> LayoutFields:
        """Either a history of messages, or one question."""
        spec = self.spec
        return LayoutFields(
            optional=(spec.field_messages, spec.field_system, spec.field_tools),
            default=PROMPT_FIELD,
        )

    def render(self, record: Fields) -> Rendered:
        """The conversation; which turns and end tokens are trained is for the data set's keys."""
        messages, tools = self._reader.read(record)
        if self._is_last_turn_alone(messages):
            return self._last_turn(messages)
        trained = [self._is_trained(message) for message in messages]
        return self._conversation(messages, tools, trained)

    def render_prompt(self, record: Fields) -> Rendered:
        """The conversation up to the model's turn, which a trained placeholder marks."""
        reader = self._reader
        if record.get(self.spec.field_messages) is not None:
            messages, tools = reader.read(record)
            if messages[-1].role == "assistant":
                messages.pop()
        else:
            question = Message({"role": "user", "content": text_field(record, PROMPT_FIELD)})
            messages, tools = reader.with_system(record, [question]), reader.tools(record)
        answer = {"role": "assistant", "content": _PLACEHOLDER}
        if self._thinks:
            answer[self.spec.template_thinking_key] = _PLACEHOLDER
        is_last = [False] * len(messages) + [True]
        return self._conversation([*messages, Message(answer)], tools, is_last)

    @property
    def end_of_turn(self) -> EndOfTurn | None:
        """What ends the model's turn in this template; None if no conversation shows it.

        Cheap: a conversation of two or of five turns is rendered once.
        """
        for probe in _PROBES:
            try:
                text = self.template.render(probe)
            except RecordError:
                continue
            answer = probe[-1]["content"]
            if answer in text:
                _, _, behind = text.rpartition(answer)
                return end_of_turn(behind, self.ends, self.tokenizer, self.spec.train_on_eos)
        return None

    @property
    def untrained_end(self) -> str | None:
        """The token that ends a turn in this template, if neither eos token nor `eot_tokens` is it.

        None where it can be trained. It then depends on `train_on_eos` and `train_on_eot` alone,
        which are the user's own words.
        """
        end = self.end_of_turn
        return None if end is None or end.is_known else end.token

    @property
    def differs_from_tokenizers_own(self) -> bool:
        """The template of the YAML writes turns otherwise than the one that the tokenizer has.

        A server that is given the tokenizer alone would ask otherwise than was trained.
        """
        if not self.tokenizer.chat_template:
            return False
        own = self.tokenizer.get_chat_template()
        if own == self.template.text:
            return False
        theirs = Template(own, self.template.special_tokens, self.template.variables)
        return any(_written(self.template, probe) != _written(theirs, probe) for probe in _PROBES)

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.spec, self.template.message_properties)

    @cached_property
    def _trained_roles(self) -> frozenset[str]:
        return frozenset(self._reader.role(role) for role in self.spec.roles_to_train)

    @property
    def _thinks(self) -> bool:
        """The user says that answers bring their reasoning, so the model is to begin with it."""
        given = self.spec.model_fields_set & {"field_thinking", "template_thinking_key"}
        return self.spec.split_thinking or bool(given)

    def _is_last_turn_alone(self, messages: Sequence[Message]) -> bool:
        """Nothing says what is trained: it is the last turn, with what the template adds to it."""
        spec = self.spec
        return not (
            spec.roles_to_train
            or spec.train_on_eot
            or spec.train_on_eos != "turn"
            or spec.message_field_training
            or spec.message_field_training_detail
            or self.are_inputs_trained
            or any(message.decides for message in messages)
        )

    def _is_trained(self, message: Message) -> bool:
        if message.is_trained is not None:
            return message.is_trained
        if message.content_parts is not None or message.thinking_parts is not None:
            return bool(message.content_parts) or bool(message.thinking_parts)
        return self.are_inputs_trained or message.role in self._trained_roles

    def _last_turn(self, messages: Sequence[Message]) -> Tokens:
        turns = [message.fields for message in messages]
        prompt = self._ids(self.template.render(turns[:-1], add_generation_prompt=True))
        rest = self._ids(self.template.render(turns))[len(prompt) :]
        return Tokens(prompt + rest, [IGNORE_INDEX] * len(prompt) + rest)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _conversation(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        trained: Sequence[bool],
    ) -> Conversation:
        fields = [message.fields for message in messages]
        text = self.template.render(fields, tools)
        locator = Locator(self.template, fields, tools, text, self.spec.template_thinking_key)
        are_all_ends_trained = any(kind.rule == "all" for kind in self.ends)
        wanted = [at for at, is_trained in enumerate(trained) if is_trained or are_all_ends_trained]
        spans = self._spans(locator, messages, wanted)
        turns = [
            Turn(spans[at], trained[at], self._parts(messages[at], at, spans[at], locator))
            for at in wanted
        ]
        return Conversation(text, tuple(turns), self.ends)

    def _spans(
        self, locator: Locator, messages: Sequence[Message], wanted: Sequence[int]
    ) -> dict[int, CharSpan | None]:
        """Where turns stand; one whose parts are told apart from its reasoning, without that."""
        key = self.spec.template_thinking_key
        apart = [
            at for at in wanted if messages[at].fields.get(key) is not None and messages[at].parts
        ]
        hidden = [at for at in wanted if at == 0 and self._hides_system(messages[0])]
        whole = [at for at in wanted if at not in apart and at not in hidden]
        return {
            **dict.fromkeys(hidden),
            **locator.spans(whole),
            **{at: locator.span(at, "content") for at in apart if at not in hidden},
        }

    def _parts(
        self, message: Message, at: int, span: CharSpan | None, locator: Locator
    ) -> tuple[TextParts, ...]:
        found = []
        if message.content_parts:
            content = message.fields.get("content")
            if not isinstance(content, str):
                raise RecordError("parts of a turn without text", repr(content)[:200])
            found.append(TextParts(span, content, message.content_parts))
        if message.thinking_parts:
            thinking = message.fields[self.spec.template_thinking_key]
            found.append(TextParts(locator.span(at, "thinking"), thinking, message.thinking_parts))
        return tuple(found)

    def _hides_system(self, first: Message) -> bool:
        """Mistral's own templates write a system text into the first question."""
        return first.role == "system" and "mistral" in self.tokenizer.name_or_path.lower()


def chat_layout(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> ChatLayout:
    """The layout of a data set.

    Raises:
        UserError: There is no such template, it can't be parsed, or an end token isn't one token.
    """
    template = template_of(spec, options, tokenizer)
    ends = end_tokens(spec, options.eot_tokens, template, tokenizer)
    return ChatLayout(tokenizer, template, spec, options.train_on_inputs, ends)


def _written(template: Template, probe: Sequence[dict[str, str]]) -> str:
    try:
        return template.render(probe) + template.render(probe[:-1], add_generation_prompt=True)
    except RecordError as error:
        return error.reason

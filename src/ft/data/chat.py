"""Conversations, rendered by a chat template and trained turn by turn.

The conversation is rendered once and tokenized at once. Where a turn's content stands in the text
is found by rendering it again with that content replaced, and comparing: no template has to be
understood. Role headers are never trained; the end token behind a trained turn is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError

from ft.data.layout import Fields, LayoutFields, StrategyOptions, optional_text_field, text_field
from ft.data.segments import RecordError, Segment, Whole
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
"""Templates that the YAML can name."""

CHAT_TYPE = "chat_template"
"""The `type:` of this layout."""

TOKENIZERS_OWN = "tokenizer_default"
SHAREGPT_FIELD = "conversations"
SHAREGPT_NAMES = {"role": "from", "content": "value"}
DEFAULT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}
PROMPT_FIELD = "prompt"
"""The field that a single question fills, where no history is given."""

_PLACEHOLDER = "A"
"""Stands for the response when the prompt in front of it is wanted."""

_PRIVATE_USE = range(0xE000, 0xF8FF)

Message = dict[str, Any]


@dataclass(frozen=True)
class ChatLayout:
    """A conversation in the words of a chat template.

    Attributes:
        tokenizer: Renders the template, in its sandbox.
        template: The template's text; None = the tokenizer's own.
        spec: Names of fields, properties and roles, and what is trained.
        are_inputs_trained: Contents of all roles are trained.
        end_ids: Ids that end a turn, one set a kind of end token.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None
    spec: DatasetSpec
    are_inputs_trained: bool
    end_ids: tuple[frozenset[int], ...]

    @property
    def fields(self) -> LayoutFields:
        """Either a history of messages, or one question."""
        return LayoutFields(
            optional=(self.spec.field_messages, self.spec.field_system), default=PROMPT_FIELD
        )

    def render(self, record: Fields) -> Whole:
        """The conversation; which turns and end tokens are trained is for the data set's keys."""
        messages = self._messages(record)
        roles = set(self.spec.roles_to_train)
        trained = [self.are_inputs_trained or message["role"] in roles for message in messages]
        ended = {
            "turn": trained,
            "all": [True] * len(messages),
            "last": [False] * (len(messages) - 1) + [True],
            "none": [False] * len(messages),
        }[self.spec.train_on_eos]
        return self._segment(messages, trained, ended)

    def render_prompt(self, record: Fields) -> Whole:
        """The conversation up to the model's turn, which a trained placeholder marks."""
        if record.get(self.spec.field_messages) is not None:
            messages = self._messages(record)
            if messages[-1]["role"] == "assistant":
                messages.pop()
        else:
            messages = self._with_system(
                record, [{"role": "user", "content": text_field(record, PROMPT_FIELD)}]
            )
        num_given = len(messages)
        messages.append({"role": "assistant", "content": _PLACEHOLDER})
        is_last = [False] * num_given + [True]
        return self._segment(messages, is_last, is_last)

    def _segment(
        self, messages: Sequence[Message], trained: Sequence[bool], ended: Sequence[bool]
    ) -> Whole:
        text = self._apply(messages)
        segments, position = [], 0
        for index in range(len(messages)):
            if not (trained[index] or ended[index]):
                continue
            span = self._find_content(messages, index, text)
            if span is None:
                continue
            start, end = span
            if start < position:
                raise RecordError("chat template reorders turns", f"turn {index + 1}")
            segments.append(Segment(text[position:start]))
            segments.append(Segment(text[start:end], trained[index], ended[index]))
            position = end
        segments.append(Segment(text[position:]))
        return Whole(tuple(segments), self.end_ids)

    def _find_content(
        self, messages: Sequence[Message], index: int, text: str
    ) -> tuple[int, int] | None:
        """Start and end of a turn's content in `text`; None if the template leaves it out."""
        mark = next(chr(code) for code in _PRIVATE_USE if chr(code) not in text)
        changed = [*messages]
        changed[index] = {**messages[index], "content": mark}
        marked = self._apply(changed)
        if marked == text:
            return None
        start = marked.find(mark)
        behind = marked[start + 1 :]
        is_plain = start >= 0 and text.startswith(marked[:start]) and text.endswith(behind)
        if not is_plain:  # the content decides what stands around it: reasoning, for one
            start = _num_shared(text, marked)
            behind = text[len(text) - _num_shared(text[start:][::-1], marked[start:][::-1]) :]
        end = len(text) - len(behind)
        return (start, end) if start < end else None

    def _apply(self, messages: Sequence[Message]) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), chat_template=self.template, tokenize=False
                )
            )
        except Exception as error:  # a template is code from outside
            raise RecordError(
                "chat template refused", f"{type(error).__name__}: {error}"
            ) from error

    def _messages(self, record: Fields) -> list[Message]:
        name = self.spec.field_messages
        if name not in record and SHAREGPT_FIELD in record:
            name = SHAREGPT_FIELD
        turns = record.get(name)
        if turns is None:
            has = ", ".join(map(str, record))
            raise RecordError(f"missing field {name!r}", f"the record has {has}")
        if not isinstance(turns, list | tuple) or not turns:
            raise RecordError(f"field {name!r} is no list of turns", repr(turns)[:200])
        return self._with_system(record, [self._message(turn) for turn in turns])

    def _with_system(self, record: Fields, messages: list[Message]) -> list[Message]:
        system = optional_text_field(record, self.spec.field_system)
        return [{"role": "system", "content": system}, *messages] if system else messages

    def _message(self, turn: Any) -> Message:
        if not isinstance(turn, Mapping):
            raise RecordError("turn is no object", repr(turn)[:200])
        names = {"role": "role", "content": "content", **self.spec.message_property_mappings}
        is_sharegpt = names["role"] not in turn and SHAREGPT_NAMES["role"] in turn
        if is_sharegpt and not self.spec.message_property_mappings:
            names = SHAREGPT_NAMES
        renamed = set(names.values())
        # Tables fill in what a turn lacks with nulls, which templates take for values.
        message = {
            key: value for key, value in turn.items() if key not in renamed and value is not None
        }
        for ours, theirs in names.items():
            if turn.get(theirs) is not None:
                message[ours] = turn[theirs]
        role, content = message.get("role"), message.setdefault("content", "")
        if not isinstance(role, str):
            raise RecordError("turn without a role", repr(dict(turn))[:200])
        if not isinstance(content, str):
            raise RecordError("turn's content is no text", repr(content)[:200])
        return {**message, "role": self._roles().get(role, role)}

    def _roles(self) -> dict[str, str]:
        if not self.spec.roles:
            return DEFAULT_ROLES
        return {theirs: ours for ours, names in self.spec.roles.items() for theirs in names}


def chat_layout(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> ChatLayout:
    """The layout that `type: chat_template` and the keys beside it describe.

    Raises:
        UserError: There is no such template, it can't be parsed, or an end token isn't one token.
    """
    template = template_text(spec, options)
    if template is None and tokenizer.chat_template is None:
        raise UserError(
            Problem(
                "the tokenizer has no chat template",
                fix="set chat_template: chatml, or chat_template: jinja with chat_template_jinja",
            )
        )
    if template is not None:
        _check_syntax(template, tokenizer)
    return ChatLayout(
        tokenizer, template, spec, options.train_on_inputs, _end_ids(options.eot_tokens, tokenizer)
    )


def template_text(spec: DatasetSpec, options: StrategyOptions) -> str | None:
    """The text of the template that the YAML names; None if it is the tokenizer's own.

    Raises:
        UserError: There is no such template.
    """
    name = spec.chat_template or options.chat_template
    if name == TOKENIZERS_OWN:
        return None
    if name != "jinja":
        if name not in TEMPLATES:
            known = ", ".join([TOKENIZERS_OWN, *TEMPLATES, "jinja"])
            raise UserError(Problem(f"no chat template {name!r}", fix=f"use one of {known}"))
        return TEMPLATES[name]
    if options.chat_template_jinja is None:
        raise UserError(
            Problem("chat_template: jinja without a template", fix="set chat_template_jinja:")
        )
    return options.chat_template_jinja


def _check_syntax(template: str, tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}], chat_template=template, tokenize=False
        )
    except TemplateSyntaxError as error:
        lines = template.splitlines()
        source = lines[error.lineno - 1] if 0 < error.lineno <= len(lines) else ""
        where = f"chat_template_jinja:{error.lineno}"
        raise UserError(Problem(str(error.message), where, source)) from None
    except TemplateError:
        pass  # it wants other turns than this one


def _num_shared(left: str, right: str) -> int:
    """How many characters two texts begin with alike."""
    unequal = (at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(unequal, min(len(left), len(right)))


def _end_ids(
    eot_tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[frozenset[int], ...]:
    eos = frozenset({tokenizer.eos_token_id} - {None})
    eots = set()
    for token in eot_tokens:
        ids = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise UserError(
                Problem(
                    f"eot_tokens: {token!r} is {len(ids)} tokens, not one",
                    fix=f"add it to the vocabulary: tokens: [{token!r}]",
                )
            )
        eots.add(ids[0])
    return tuple(ids for ids in (eos, frozenset(eots)) if ids)

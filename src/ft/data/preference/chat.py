"""The layouts that are written by a chat template.

A pair's answers are cut out of a rendered conversation by looking for their text, as axolotl does.
Where that finds the wrong place, or none, the pair says so (`doubt`) and is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ft.data.chat.templates import Template, template_of
from ft.data.layout import Fields, StrategyOptions, optional_text_field, text_field
from ft.data.preference.layouts import PreferenceLayout, Render
from ft.data.preference.records import Comparison, Preference
from ft.data.preference.sources import present_field, turns_field
from ft.data.segments import RecordError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

ROLES = ("user", "assistant", "system", "tool")
"""Roles as records name them, if `roles:` says nothing."""

_MARK = "\ue000"
"""A character of the private use area: no template writes it by itself."""

_STAND_IN = {"role": "user", "content": "[[dummy_message]]"}
"""The turn in front of an answer, for templates that want one; axolotl's words, since they show
where an answer's text is found in them."""


def _template(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Template:
    """The template that the data set, else the run, names.

    Raises:
        UserError: There is none, or it can't be parsed.
    """
    # Axolotl hands chat_template_kwargs to no template of preference records.
    return replace(template_of(spec, options, tokenizer), variables={})


# -- dpo ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChatPairs:
    """Conversations with a better and a worse last turn.

    Attributes:
        template: Writes the turns.
        spec: Names of fields, properties and roles.
    """

    template: Template
    spec: DatasetSpec

    def render(self, record: Fields) -> Preference:
        """The turns of `field_messages` (or one question), and two answers to them."""
        history = present_field(record, self.spec.field_messages)
        if isinstance(history, str):
            messages = [{"role": "user", "content": history}]
        else:
            turns = turns_field(record, self.spec.field_messages)
            messages = [self._message(turn, self.spec.field_messages) for turn in turns]
        return self._pair(
            messages,
            self._answer(record, self.spec.field_chosen),
            self._answer(record, self.spec.field_rejected),
        )

    def render_whole(self, record: Fields) -> Preference:
        """Two whole conversations; the turns in front of the last are taken from the better one."""
        chosen_name, rejected_name = self.spec.field_chosen, self.spec.field_rejected
        chosen = [self._message(turn, chosen_name) for turn in turns_field(record, chosen_name)]
        rejected = self._message(turns_field(record, rejected_name)[-1], rejected_name)
        return self._pair(chosen[:-1], chosen[-1], rejected)

    def _pair(self, messages: list[Message], chosen: Message, rejected: Message) -> Preference:
        prompt = self.template.render(messages, add_generation_prompt=True)
        chosen_text, chosen_doubt = self._cut(chosen)
        rejected_text, rejected_doubt = self._cut(rejected)
        return Preference(prompt, chosen_text, rejected_text, chosen_doubt or rejected_doubt)

    def _cut(self, answer: Message) -> tuple[str, str]:
        """The answer as the template writes it, with its end; and what is doubtful about that."""
        rendered = self.template.render([_STAND_IN, answer])
        at = rendered.find(answer["content"])
        doubt = ""
        if at < 0:
            doubt = "the chat template changes an answer's text, so that all but its end is lost"
        elif at < self._starts.get(answer["role"], 0):
            doubt = "an answer's text also stands in front of it, and is taken from there"
        return rendered[at:].rstrip(), doubt

    @cached_property
    def _starts(self) -> dict[str, int]:
        """Where an answer of each role begins in the rendered conversation."""
        starts = {}
        for role in {"assistant", *(self.spec.roles or ())}:
            try:
                rendered = self.template.render([_STAND_IN, {"role": role, "content": _MARK}])
            except RecordError:
                continue  # a template that lets no such role answer
            starts[role] = rendered.find(_MARK)
        return starts

    def _answer(self, record: Fields, name: str) -> Message:
        value = present_field(record, name)
        if isinstance(value, str):
            return {"role": "assistant", "content": value}
        turn = value if isinstance(value, Mapping) else turns_field(record, name)[-1]
        return self._message(turn, name)

    def _message(self, turn: Fields, name: str) -> Message:
        keys = {"role": "role", "content": "content", **self.spec.message_property_mappings}
        content = text_field(turn, keys["content"])
        role = turn.get(keys["role"])
        if role not in self._roles:
            raise RecordError(
                f"a turn of {name!r} has the role {role!r}",
                f"name it in roles:, which knows {', '.join(self._roles)}",
            )
        return {"role": self._roles[role], "content": content}

    @cached_property
    def _roles(self) -> dict[str, str]:
        if not self.spec.roles:
            return dict(zip(ROLES, ROLES, strict=True))
        return {theirs: ours for ours, names in self.spec.roles.items() for theirs in names}


def _default(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Render:
    return ChatPairs(_template(spec, options, tokenizer), spec).render


def _argilla_chat(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Render:
    return ChatPairs(_template(spec, options, tokenizer), spec).render_whole


# -- orpo -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemainderPairs:
    """Two whole conversations; an answer is what its conversation has behind the prompt."""

    template: Template

    def render(self, record: Fields) -> Preference:
        """The turns of `chosen` but the last (their questions replaced by `prompt`, if given)."""
        prompts = self._prompt(record)
        prompt = self.template.render(prompts, add_generation_prompt=True)
        chosen, rejected = (self._whole(record, name, prompts) for name in ("chosen", "rejected"))
        doubt = ""
        if not (chosen.startswith(prompt) and rejected.startswith(prompt)):
            doubt = "the chat template writes a prompt otherwise before an answer"
        elif len(record["chosen"]) > 2 and record.get("prompt") is not None:
            doubt = "'prompt' stands in for every question of a longer conversation"
        return Preference(prompt, chosen[len(prompt) :], rejected[len(prompt) :], doubt)

    def _whole(self, record: Fields, name: str, prompts: Sequence[Message]) -> str:
        answer = text_field(turns_field(record, name)[-1], "content")
        return self.template.render([*prompts, {"role": "assistant", "content": answer}])

    def _prompt(self, record: Fields) -> list[Message]:
        turns = turns_field(record, "chosen")
        if len(turns) % 2:
            raise RecordError("'chosen' doesn't alternate", f"{len(turns)} turns, an odd number")
        system = optional_text_field(record, "system")
        messages = [{"role": "system", "content": system}] if system else []
        for index, turn in enumerate(turns[:-1]):
            if index % 2:
                messages.append({"role": "assistant", "content": text_field(turn, "content")})
                continue
            has_prompt = record.get("prompt") is not None
            asked = text_field(record, "prompt") if has_prompt else text_field(turn, "content")
            messages.append({"role": "user", "content": asked})
        return messages


def _remainder(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Render:
    plain = spec.model_copy(update={"chat_template": None, "chat_template_jinja": None})
    return RemainderPairs(_template(plain, options, tokenizer)).render


def _note_of_remainder(spec: DatasetSpec) -> str:
    if spec.chat_template is None and spec.chat_template_jinja is None:
        return ""
    return (
        "orpo's chat_template.argilla does not read the data set's own chat_template, as in "
        "axolotl: set it at the top level"
    )


# -- reward models --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChatComparisons:
    """Columns `system`, `input`, `chosen` and `rejected` as two whole conversations."""

    template: Template

    def render(self, record: Fields) -> Comparison:
        """Both conversations; an empty system text is a turn of its own, a missing one is none."""
        messages = [{"role": "user", "content": text_field(record, "input")}]
        if record.get("system") is not None:
            messages.insert(0, {"role": "system", "content": text_field(record, "system")})
        wholes = [
            self.template.render(
                [*messages, {"role": "assistant", "content": text_field(record, name)}]
            )
            for name in ("chosen", "rejected")
        ]
        return Comparison(self.template.render(messages, add_generation_prompt=True), *wholes)


def _comparison(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Render:
    return ChatComparisons(_template(spec, options, tokenizer)).render


CHAT_PAIR_LAYOUTS = {
    "chat_template.default": PreferenceLayout(_default),
    "chat_template.argilla_chat": PreferenceLayout(_argilla_chat),
}
REMAINDER_LAYOUTS = {"chat_template.argilla": PreferenceLayout(_remainder, _note_of_remainder)}
COMPARISON_LAYOUT = PreferenceLayout(_comparison)

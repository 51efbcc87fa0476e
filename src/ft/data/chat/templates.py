"""Chat templates: which one the YAML names, and how it is rendered.

Templates come from models and from users, so they are rendered in a sandbox and within bounds, with
the filters and functions that Hugging Face's own renderer gives them; each is compiled once. Only
plain data (what JSON holds) is ever passed to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes
from jinja2 import Template as CompiledTemplate
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from ft.data.chat.bounds import BoundedSandbox, TookTooLongError, within_time
from ft.data.layout import StrategyOptions
from ft.data.segments import RecordError
from ft.runtime.errors import Problem, UserError
from ft.spec.chat_templates import FALLBACK, JINJA, TOKENIZERS_OWN, checked_chat_template
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = {
    "aya": ("cohere", ""),
    "gemma3n": ("gemma3", ""),
    "gemma4_unified": ("gemma4", ""),
    "mistral_v3_tekken": ("mistral_v2v3", "{%- set is_tekken = true %}\n"),
    "qwen3_5": ("qwen3", ""),
}
"""Names that share a file, for text: its name, and what is put in front of it."""

_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a turn's reasoning; templates read one, records bring another."""

_LONGEST_PATH = 4096

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Template:
    """A chat template, ready to render.

    Attributes:
        text: Its source.
        special_tokens: The tokenizer's, by role: bos_token, eos_token, ...
        variables: What else the user gives it (`chat_template_kwargs`).
    """

    text: str
    special_tokens: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)

    def render(
        self,
        messages: Sequence[Message],
        tools: Tools | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as text.

        Raises:
            RecordError: The template refuses it.
            UserError: The template does not end.
        """
        try:
            template = _compile(self.text)
            with within_time():
                return template.render(
                    **{**self.special_tokens, **self.variables},
                    messages=[_with_reasoning(message) for message in messages],
                    tools=tools or None,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                )
        except TookTooLongError as error:  # so would the next record
            raise UserError(Problem(f"chat template: {error}")) from None
        except Exception as error:  # a template is code from outside
            raise RecordError(
                "chat template refused", f"{type(error).__name__}: {error}"
            ) from error

    @property
    def message_properties(self) -> frozenset[str]:
        """The properties of a turn that the template reads: those of a variable named message."""
        return _message_properties(self.text)

    def check_syntax(self) -> None:
        """Compiles it.

        Raises:
            UserError: It can't be parsed; says in which line.
        """
        try:
            _compile(self.text)
        except TemplateSyntaxError as error:
            lines = self.text.splitlines()
            source = lines[error.lineno - 1] if 0 < error.lineno <= len(lines) else ""
            where = f"chat_template_jinja:{error.lineno}"
            raise UserError(Problem(str(error.message), where, source)) from None
        except _UNCOMPILABLE as error:
            what = f"cannot be compiled: {type(error).__name__}: {error}"
            raise UserError(Problem(what, "chat_template_jinja")) from None


def template_of(
    spec: DatasetSpec, options: StrategyOptions, tokenizer: PreTrainedTokenizerBase
) -> Template:
    """The template of a data set.

    Raises:
        UserError: There is none, or it can't be parsed.
    """
    text = template_text(spec, options, tokenizer)
    if text is None:
        if not tokenizer.chat_template:
            raise UserError(
                Problem(
                    "the tokenizer has no chat template",
                    fix="set chat_template: chatml (or another name: ft explain chat_template), "
                    "or chat_template: jinja with chat_template_jinja",
                )
            )
        text = tokenizer.get_chat_template()
    template = Template(text, tokenizer.special_tokens_map, options.chat_template_kwargs)
    template.check_syntax()
    return template


def template_text(
    spec: DatasetSpec,
    options: StrategyOptions,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> str | None:
    """The text of the template that the YAML names; None if it is the tokenizer's own.

    Args:
        spec: The entry of `datasets:`; what it says of templates goes before what `options` say.
        options: The keys beside `datasets:`.
        tokenizer: Decides about `tokenizer_default_fallback_NAME`.

    Raises:
        UserError: There is no such template.
    """
    name, jinja = spec.chat_template, spec.chat_template_jinja
    if name is None and jinja is None:
        name, jinja = options.chat_template, options.chat_template_jinja
    if name is None or (name == TOKENIZERS_OWN and jinja):
        name = JINJA
    if name == JINJA:
        if not jinja:
            raise UserError(
                Problem("chat_template: jinja without a template", fix="set chat_template_jinja:")
            )
        return _read_if_file(jinja)
    has_own = tokenizer is None or bool(tokenizer.chat_template)
    if name == TOKENIZERS_OWN or (name.startswith(FALLBACK) and has_own):
        return None
    return named_template(name.removeprefix(FALLBACK))


def named_template(name: str) -> str:
    """The text of a template of ours.

    Raises:
        UserError: There is none of this name.
    """
    try:
        checked_chat_template(name)
    except ValueError as error:
        raise UserError(Problem(f"no chat template {name!r}", fix=f"give {error}")) from None
    return _named_text(name)


@cache
def _named_text(name: str) -> str:
    file, prefix = _FILES.get(name, (name, ""))
    folder = resources.files("ft.data") / "chat_templates"
    return prefix + (folder / f"{file}.jinja").read_text(encoding="utf-8")


def _read_if_file(text: str) -> str:
    is_name = len(text) < _LONGEST_PATH and "\n" not in text and "{" not in text
    if is_name and (path := Path(text).expanduser()).is_file():
        return path.read_text(encoding="utf-8")
    if is_name and text.endswith((".jinja", ".jinja2", ".j2")):
        raise UserError(Problem(f"chat_template_jinja: there is no file {text}"))
    return text


def _with_reasoning(message: Message) -> Message:
    """The turn as a template gets it: reasoning under each name that a template may read."""
    if not any(name in message for name in _REASONING):
        return message
    given = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    if given is None:
        return message
    return {"thinking": given, **message, "reasoning_content": given}


# -- Jinja ----------------------------------------------------------------------------------------


class _Generation(Extension):
    """`{% generation %}` marks what a model says; what stands inside is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_UNCOMPILABLE = (RecursionError, SyntaxError, ValueError, OverflowError, MemoryError)
"""Nested too deeply for jinja2 or for the Python that it makes, or a number without end."""


@lru_cache(maxsize=32)
def _compile(text: str) -> CompiledTemplate:
    return _environment().from_string(text)


@cache
def _environment() -> Environment:
    environment = BoundedSandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


@lru_cache(maxsize=32)
def _message_properties(text: str) -> frozenset[str]:
    found: set[str] = set()
    tree = _environment().parse(text)
    for attribute in tree.find_all(nodes.Getattr):
        if _variable(attribute) == "message":
            found.add(attribute.attr)
    for item in tree.find_all(nodes.Getitem):
        key = item.arg.value if isinstance(item.arg, nodes.Const) else None
        if isinstance(key, str) and _variable(item) == "message":
            found.add(key)
    return frozenset(found)


def _variable(node: nodes.Node) -> str | None:
    """The variable that an expression like `message.content[0]` begins with."""
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        node = node.node
    return node.name if isinstance(node, nodes.Name) else None

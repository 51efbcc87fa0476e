"""The prompt layout that travels with a run, so that a model is asked exactly as it was trained.

`PromptLayout` is what prompt.json holds. For a user's strategy file it carries the file's text;
that text is run again only if the caller says that it may be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ft.data.chat import CHAT_TYPE, template_text
from ft.data.classification.layout import CLASSIFICATION_TYPE, classification_fields
from ft.data.layout import Fields, LabelOptions, LayoutFields, Strategy, StrategyOptions
from ft.data.segments import IGNORE_INDEX, RecordError, Rendered, Separate
from ft.data.strategy import ResolvedStrategy, build_strategy
from ft.data.strategy_file import StrategySource
from ft.data.tokenize import ids_before_training, tokenize
from ft.runtime.errors import Problem, UserError
from ft.spec.chat_templates import JINJA, TOKENIZERS_OWN
from ft.spec.classification import Classification
from ft.spec.runspec import DatasetSpec, MappingLayout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
NO_LIMIT = 1 << 30
"""Tokens: a prompt of ours is asked whole, however long."""

_LAYOUT_KEYS = {
    "type",
    "field",
    "field_messages",
    "field_system",
    "field_tools",
    "field_thinking",
    "template_thinking_key",
    "split_thinking",
    "drop_system_message",
    "message_property_mappings",
    "message_field_training",
    "message_field_training_detail",
    "roles",
    "roles_to_train",
    "train_on_eos",
    "train_on_eot",
}
_LABELED_KEYS = {"type", "field", "field_text_pair", "field_label"}
_THINKING_KEYS = {"field_thinking", "template_thinking_key"}
"""Who gives one of these trains on reasoning, so that a model is asked to begin with it."""
_FILLERS = ("", "x")
"""What stands for a response; a user's strategy may refuse an empty one."""
_LIKELY_QUESTIONS = ("question", "instruction", "prompt", "input", "text", "query")


@dataclass(frozen=True)
class PromptLayout:
    """How records of one data set are laid out.

    Attributes:
        spec: The keys of the `datasets:` entry that decide the layout.
        fields: Fields by what they are for.
        sequence_len: Of the run.
        chat_template: The template's text, if the YAML named one; None = the tokenizer's own.
        eot_tokens: Of the run.
        chat_template_kwargs: What else the template is given.
        source: The user's strategy file, if there is one.
        is_trusted: The code of `source` may be run.
        labels: What is told of a text, where labels are learned; None = a text is written.
    """

    spec: DatasetSpec
    fields: LayoutFields
    sequence_len: int
    chat_template: str | None = None
    eot_tokens: tuple[str, ...] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    source: StrategySource | None = None
    is_trusted: bool = True
    labels: LabelOptions | None = None

    @property
    def kind(self) -> str:
        """What lays the records out: file, mapping, chat, tokens, or built-in."""
        if self.source is not None:
            return "file"
        if isinstance(self.spec.type, MappingLayout):
            return "mapping"
        kinds: dict[Any, str] = {
            None: "tokens",
            CHAT_TYPE: "chat",
            CLASSIFICATION_TYPE: "classification",
        }
        return kinds.get(self.spec.type, "built-in")

    @property
    def prompt_fields(self) -> tuple[str, ...]:
        """Fields that a prompt needs."""
        return self.fields.prompt

    @property
    def response_fields(self) -> tuple[str, ...]:
        """Fields that are trained."""
        return self.fields.response

    @property
    def default_field(self) -> str | None:
        """The field that the text of `--prompt` fills."""
        return self.fields.default

    @property
    def response_prefix(self) -> str:
        """Trained in front of the response; not part of the answer."""
        return self.fields.response_prefix

    @property
    def _unsaid(self) -> set[str]:
        """Keys whose being there says something, and that are not there."""
        return _THINKING_KEYS - self.spec.model_fields_set

    def to_json(self) -> dict[str, Any]:
        """What prompt.json holds."""
        return self._to_json() if self.labels is None else self._labeled_to_json(self.labels)

    def _labeled_to_json(self, labels: LabelOptions) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": self.kind,
            **self.spec.model_dump(mode="json", include=_LABELED_KEYS),
            "sequence_len": self.sequence_len,
            "truncation_side": labels.truncation_side,
            **labels.task.to_json(),
        }

    def _to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": self.kind,
            **self.spec.model_dump(mode="json", include=_LAYOUT_KEYS - self._unsaid),
            "prompt_fields": list(self.fields.prompt),
            "response_fields": list(self.fields.response),
            "optional_fields": list(self.fields.optional),
            "default_field": self.fields.default,
            "response_prefix": self.fields.response_prefix,
            "sequence_len": self.sequence_len,
            "chat_template": self.chat_template,
            "eot_tokens": list(self.eot_tokens),
            "chat_template_kwargs": dict(self.chat_template_kwargs),
            "source": None if self.source is None else asdict(self.source),
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], allow_code: Callable[[str], bool] | None = None
    ) -> PromptLayout:
        """The layout that `to_json` wrote.

        Args:
            data: The object that prompt.json holds.
            allow_code: Called with the sha256 of a user's strategy file: may its text be run?

        Raises:
            UserError: Another version wrote it, or it was changed by hand.
        """
        if data.get("version") != VERSION:
            raise UserError(
                Problem(f"prompt.json has version {data.get('version')!r}, this ft reads {VERSION}")
            )
        try:
            layout = cls._parse(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(Problem(f"prompt.json is damaged: {error!r}"[:500])) from None
        if layout.source is None:
            return layout
        sha256 = layout.source.sha256
        return replace(layout, is_trusted=allow_code is not None and allow_code(sha256))

    @classmethod
    def _parse(cls, data: Mapping[str, Any]) -> PromptLayout:
        if data.get("kind") == CLASSIFICATION_TYPE:
            return cls._parse_labeled(data)
        _check_types(data)
        keys = {key: data[key] for key in _LAYOUT_KEYS if key in data}
        source = None if data["source"] is None else StrategySource(**data["source"])
        if source is not None:
            # The sum is what the caller decides by, so it has to be that of the text.
            sha256 = hashlib.sha256(source.text.encode()).hexdigest()
            source = replace(source, sha256=sha256)
        return cls(
            DatasetSpec.model_validate_json(json.dumps({"path": "-", **keys})),
            LayoutFields(
                prompt=tuple(data["prompt_fields"]),
                response=tuple(data["response_fields"]),
                optional=tuple(data["optional_fields"]),
                default=data["default_field"],
                response_prefix=data["response_prefix"],
            ),
            data["sequence_len"],
            data["chat_template"],
            tuple(data["eot_tokens"]),
            dict(data.get("chat_template_kwargs") or {}),
            source,
        )

    @classmethod
    def _parse_labeled(cls, data: Mapping[str, Any]) -> PromptLayout:
        keys = {key: data[key] for key in _LABELED_KEYS}
        spec = DatasetSpec.model_validate({"path": "-", **keys})
        if data["truncation_side"] not in ("left", "right"):
            raise ValueError(f"truncation_side is {data['truncation_side']!r}")
        if not isinstance(data["sequence_len"], int):
            raise TypeError("sequence_len is no number")
        labels = LabelOptions(Classification.from_json(data), data["truncation_side"], True)
        return cls(spec, classification_fields(spec), data["sequence_len"], labels=labels)

    def encode_prompt(self, fields: Fields, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The ids that stood before the first trained token when such a record was trained.

        Args:
            fields: The prompt's fields; those of the response may be missing.
            tokenizer: The model's tokenizer.

        Raises:
            UserError: A field is missing, or the strategy's code may not be run.
        """
        if missing := [name for name in self.fields.prompt if name not in fields]:
            flags = " ".join(f"--field {name}=..." for name in missing)
            raise UserError(
                Problem(f"the prompt lacks {', '.join(map(repr, missing))}", fix=f"add {flags}")
            )
        rendered = self._render_prompt(fields, self._strategy(tokenizer))
        if isinstance(rendered, Separate):
            rendered = replace(rendered, max_tokens=None, row_tokens=None)
        return ids_before_training(tokenize([rendered], tokenizer)[0][0])

    def _render_prompt(self, fields: Fields, strategy: Strategy) -> Rendered:
        for filler in _FILLERS:
            try:
                return strategy.render_prompt(
                    {**fields, **dict.fromkeys(self.fields.response, filler)}
                )
            except RecordError as error:
                refusal = error
        raise UserError(Problem(f"can't lay out the prompt: {refusal}")) from refusal

    def _strategy(self, tokenizer: PreTrainedTokenizerBase) -> Strategy:
        if self.source is not None and not self.is_trusted:
            raise UserError(
                Problem(
                    f"the prompt is laid out by code that came with the model: {self.source.path}",
                    fix=f"read it in prompt.json (sha256 {self.source.sha256}), "
                    "then allow it with --trust-remote-code",
                )
            )
        options = StrategyOptions(
            sequence_len=self.sequence_len if self.source or self.labels else NO_LIMIT,
            chat_template=TOKENIZERS_OWN if self.chat_template is None else JINJA,
            chat_template_jinja=self.chat_template,
            eot_tokens=self.eot_tokens,
            chat_template_kwargs=self.chat_template_kwargs,
            labels=self.labels,
        )
        return build_strategy(self.spec, self.source, tokenizer, options)


def _check_types(data: Mapping[str, Any]) -> None:
    """What pydantic does not look at.

    Raises:
        TypeError: A value is of another type than `to_json` writes.
    """
    for name in ("prompt_fields", "response_fields", "optional_fields", "eot_tokens"):
        value = data[name]
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise TypeError(f"{name} is no list of texts")
    for name in ("default_field", "chat_template"):
        if not isinstance(data[name], str | None):
            raise TypeError(f"{name} is no text")
    if not isinstance(data["response_prefix"], str) or not isinstance(data["sequence_len"], int):
        raise TypeError("response_prefix is no text, or sequence_len no number")


def prompt_layout(
    spec: DatasetSpec,
    resolved: ResolvedStrategy,
    options: StrategyOptions,
    tokenizer: PreTrainedTokenizerBase,
    sample: Fields,
) -> PromptLayout:
    """The layout of a data set; fields that only a user's code knows are found by trying.

    Args:
        spec: The entry of `datasets:`.
        resolved: Its strategy.
        options: The keys beside `datasets:`.
        tokenizer: The model's tokenizer.
        sample: A record that the strategy can use.
    """
    fields = resolved.strategy.fields
    if fields is None:
        plain = replace(options, train_on_inputs=False)
        strategy = build_strategy(spec, resolved.source, tokenizer, plain)
        fields = probe_fields(strategy, sample, tokenizer)
    return PromptLayout(
        spec=spec.model_copy(
            update={"path": "-", "chat_template": None, "chat_template_jinja": None}
        ),
        fields=fields,
        sequence_len=options.sequence_len,
        chat_template=(template_text(spec, options, tokenizer) if spec.type == CHAT_TYPE else None),
        eot_tokens=options.eot_tokens,
        chat_template_kwargs=options.chat_template_kwargs,
        source=resolved.source,
        labels=options.labels,
    )


def probe_fields(
    strategy: Strategy, sample: Fields, tokenizer: PreTrainedTokenizerBase
) -> LayoutFields:
    """Finds a strategy's fields: one after the other is changed, to see what changes with it."""
    before = _prompt_and_trained(strategy, sample, tokenizer)
    prompt: list[str] = []
    response: list[str] = []
    for name, value in sample.items():
        after = _prompt_and_trained(strategy, {**sample, name: _changed(value)}, tokenizer)
        if after is None or before is None or after == before:
            continue
        # A field that stands in both is asked for, so it belongs to the prompt.
        (response if after[0] == before[0] else prompt).append(name)
    likely = [name for name in _LIKELY_QUESTIONS if name in prompt]
    return LayoutFields(
        prompt=tuple(prompt),
        response=tuple(response),
        default=next(iter([*likely, *prompt[-1:]]), None),
        response_prefix=_response_prefix(strategy, sample, response),
    )


def _prompt_and_trained(
    strategy: Strategy, record: Fields, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]] | None:
    """Ids that are not trained, and ids that are; None if the strategy refuses the record."""
    try:
        rows = tokenize([strategy.render(record)], tokenizer)[0]
    except RecordError:
        return None
    pairs = [pair for row in rows for pair in zip(row.input_ids, row.labels, strict=True)]
    asked = [token for token, label in pairs if label == IGNORE_INDEX]
    return asked, [token for token, label in pairs if label != IGNORE_INDEX]


def _changed(value: Any) -> Any:
    if isinstance(value, str):
        return f"{value} x"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value + 1
    return value + value[-1:] if isinstance(value, list) else value


def _response_prefix(strategy: Strategy, sample: Fields, response: list[str]) -> str:
    """What is trained in front of the response's only field, if that can be seen."""
    try:
        rendered = strategy.render(sample)
    except RecordError:  # code that keeps a state may refuse what it took before
        return ""
    if not isinstance(rendered, Separate) or len(response) != 1:
        return ""
    trained = "".join(segment.text for segment in rendered.segments if segment.is_trained)
    value = sample[response[0]]
    return (
        trained[: -len(value)]
        if isinstance(value, str) and value and trained.endswith(value)
        else ""
    )

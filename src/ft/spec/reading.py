"""One file while it is read: each pass over it adds problems, and notices.

old names and states of keys -> files -> contradictions -> types
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ft.runtime.errors import Problem, UserError
from ft.spec import dialect, pretraining, values
from ft.spec.distributed import SIZES, check_distributed
from ft.spec.document import Document, KeyPath
from ft.spec.file_names import find_impossible_names, template_text
from ft.spec.nearest import nearest
from ft.spec.options import EVERY_NAME, GROUPS, Options
from ft.spec.pretraining import check_pretraining, read_as_datasets
from ft.spec.runspec import DatasetSpec, RunSpec, sections_of_keys
from ft.spec.secrets import find_secrets
from ft.spec.type_errors import errors_by_key, fix_of_value, mismatch

MAX_PROBLEMS = 50
"""So many are told of one file."""

_Tables = tuple[dict[str, dialect.Rename], dict[str, str], dict[str, str]]
"""Old names, keys without effect, unsupported keys."""


class Reading:
    """The problems and notices that gather while one file is read."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.values: dict[str, Any] = document.values
        self.command_line = Options(self.values, self.problem)
        self.options = self.command_line.given
        self.problems: list[Problem] = []
        self.notices: list[str] = []
        self.without_effect: dict[str, list[str]] = {}
        """Keys that change nothing here, by the reason."""
        self.meant: set[KeyPath] = set()
        """Keys that an unknown one most likely stands for."""
        self.reported: set[KeyPath] = set()

    def problem(self, key_path: KeyPath, what: str, fix: str = "") -> None:
        """Notes what is wrong with a key, which is not looked at again."""
        self.reported.add(key_path)
        self.problems.append(place(self.document, self.options, key_path, what, fix))

    # -- secrets ------------------------------------------------------------------------------

    def secrets(self) -> None:
        """Each is said once, as a secret; its key is not looked at again."""
        for key_path, what, fix in find_secrets(self.values, EVERY_NAME):
            self.problem(key_path, what, fix)

    # -- keys ---------------------------------------------------------------------------------

    def states_of_keys(self) -> dict[str, Any]:
        """The flat values in today's names, without nulls and without keys that have no effect."""
        for key_path, what, fix in values.check_plugins(self.values.get("plugins")):
            self.problem(key_path, what, fix)
        for key_path, what, fix in check_distributed(self.values):
            self.problem(key_path, what, fix)
        self._pretraining()
        flat: dict[str, Any] = {}
        known = sections_of_keys()
        for key, value in self.values.items():
            self._key(
                (key,),
                self._value_today(key, value, flat),
                flat,
                known,
                (dialect.RENAMED, dialect.NO_EFFECT, dialect.NOT_SUPPORTED),
            )
        for name in ("datasets", "test_datasets"):
            if isinstance(flat.get(name), list):
                flat[name] = [self._dataset((name, i), entry) for i, entry in enumerate(flat[name])]
        for name in LISTS_THAT_TAKE_ONE:
            if isinstance(flat.get(name), str):
                flat[name] = [flat[name]]
        for name, meanings in dialect.MEANINGS.items():
            if name in flat and isinstance(flat[name], bool | str) and flat[name] in meanings:
                flat[name] = meanings[flat[name]]
        return {key: value for key, value in flat.items() if value is not None}

    def _pretraining(self) -> None:
        """Reads pretraining_dataset as datasets; a mistake in it stands at its own lines."""
        if mistake := check_pretraining(self.values):
            self.problem(*mistake)
        if not self.values.get("datasets") and read_as_datasets(self.document):
            self.notices.append(pretraining.READ_AS)

    def _value_today(self, key: str, value: Any, flat: dict[str, Any]) -> Any:
        """The value that this one stands for; None where another key says it, or it is an error."""
        word = value if isinstance(value, str) else None
        if hint := values.NOT_SUPPORTED.get(key, {}).get(word):
            self.problem((key,), f"{key}: {value} is not supported", hint)
            return None
        if today := values.READ_AS.get(key, {}).get(word):
            shown = yaml.safe_dump(today.value).split("\n")[0]
            self.notices.append(f"{key}: {value} is read as {shown} ({today.why})")
            return today.value
        if key in values.NEVER and value == 0 and value is not False:
            flat.setdefault(values.NEVER[key], "no")
            self.notices.append(f"{key}: 0 is read as {values.NEVER[key]}: no")
            return None
        if key == "tokens" and isinstance(value, dict):
            self.notices.append("tokens by role are called special_tokens today")
            self._merge(flat, (key,), "special_tokens", value)
            return None
        return value

    def _dataset(self, key_path: KeyPath, entry: Any) -> Any:
        if isinstance(entry, str):
            return {"path": entry}
        if not isinstance(entry, dict):
            return entry
        if entry.get("type") in values.TYPES_OF_KD:
            entry = {"logprobs_field": "logprobs", **entry, "type": "chat_template"}
        flat: dict[str, Any] = {}
        tables: _Tables = (dialect.RENAMED_IN_DATASETS, {}, dialect.NOT_SUPPORTED_IN_DATASETS)
        for key, value in entry.items():
            self._key((*key_path, key), value, flat, dict(DatasetSpec.model_fields), tables)
        if isinstance(flat.get("type"), dict):
            flat["type"] = {k: v for k, v in flat["type"].items() if v is not None}
        return flat

    def _key(
        self,
        key_path: KeyPath,
        value: Any,
        flat: dict[str, Any],
        known: dict[str, Any],
        tables: _Tables,
    ) -> None:
        renamed, no_effect, not_supported = tables
        key = str(key_path[-1])
        if key_path in self.reported:
            return
        if key in renamed:
            self._renamed(key_path, value, flat, renamed[key])
        elif key in no_effect:
            if not is_default(key, value):
                self.without_effect.setdefault(no_effect[key], []).append(key)
        elif key in not_supported:
            if key in dialect.OF_PREFERENCES and dialect.asks_for_preferences(self.values):
                self.without_effect.setdefault(_NOT_TRAINED, []).append(key)
            elif not values.is_off(key, value):
                self.problem(key_path, f"{key} is not supported", not_supported[key])
        elif key not in known:
            self._unknown(key_path, [*known, *renamed, *no_effect, *not_supported])
        elif value is not None:
            self._merge(flat, key_path, key, value)

    def _renamed(
        self, key_path: KeyPath, value: Any, flat: dict[str, Any], rename: dialect.Rename
    ) -> None:
        try:
            value_today = rename.convert(value) if value is not None else None
            if value is not None and rename.convert_in:
                value_today = rename.convert_in(self.values)
        except ValueError as error:
            self.problem(key_path, str(error), f"set {rename.new}")
            return
        if value_today is None:
            return
        self.notices.append(
            f"{key_path[-1]} is called {rename.new} today: {rename.new}: {value_today}"
        )
        self._merge(flat, key_path, rename.new, value_today)

    def _merge(self, flat: dict[str, Any], key_path: KeyPath, key: str, value: Any) -> None:
        """Sets a key; two mappings (old message_field_* names) grow together, else they clash."""
        before = flat.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            flat[key] = {**before, **value}
        elif isinstance(before, bool) and isinstance(value, bool):
            flat[key] = before or value  # `fp16: false`, and `float16: true` below it
        elif before is not None and before != value:
            self.problem(
                key_path, f"{key} is given twice: {before!r} and {value!r}", "keep one of them"
            )
        else:
            flat[key] = value

    def _unknown(self, key_path: KeyPath, candidates: Sequence[str]) -> None:
        key = str(key_path[-1])
        is_told = len(self.problems) < MAX_PROBLEMS
        guess = nearest(key, candidates) if is_told else None
        self.meant.add((*key_path[:-1], guess or ""))
        self.problem(
            key_path, f"unknown key {key!r}", f"did you mean {guess}?" if guess else "remove it"
        )

    def file_names(self, flat: dict[str, Any]) -> None:
        """Names that no file can have are told here, so that nothing stumbles over them."""
        for key_path, fault in find_impossible_names(flat):
            name = ".".join(str(part) for part in key_path)
            self.problem(key_path, f"{name} {fault}", "name a file or a folder")

    def templates(self, flat: dict[str, Any]) -> None:
        """A chat template in a file is read here: a run holds its text, not its place."""
        sets = [
            ((name, index, _TEMPLATE), entry)
            for name in ("datasets", "test_datasets")
            for index, entry in enumerate(flat[name] if isinstance(flat.get(name), list) else [])
            if isinstance(entry, dict)
        ]
        for key_path, holder in [((_TEMPLATE,), flat), *sets]:
            given = holder.get(_TEMPLATE)
            if isinstance(given, str):
                try:
                    holder[_TEMPLATE] = template_text(given, self.document.path.parent)
                except UserError as error:
                    self.problem(key_path, error.problems[0].what, error.problems[0].fix)

    def contradictions(self, flat: dict[str, Any]) -> None:
        """Keys that can't hold together, at the first of them that is given."""
        for rule in dialect.CONTRADICTIONS:
            if rule.holds(flat):
                given = next((key for key in rule.keys if key in flat), rule.keys[0])
                self.problem((given,), rule.what, rule.fix)

    def what_is_only_previewed(self, flat: dict[str, Any]) -> None:
        """Refuses keys whose records can be looked at, and not be trained with yet."""
        for key in dialect.PREVIEWED:
            if flat.get(key):
                asked = f"{key}: {yaml.safe_dump(flat[key]).split(chr(10))[0]}"
                self.problem(
                    (key,),
                    f"{asked} asks for preference tuning, which is not built yet",
                    f"`ft preview {self.document.path}` shows its records; "
                    "for supervised tuning remove it",
                )

    # -- types --------------------------------------------------------------------------------

    def validate(self, flat: dict[str, Any]) -> RunSpec | None:
        """The spec; None if a value is of another type than its key takes."""
        sections = sections_of_keys()
        nested: dict[str, dict[str, Any]] = {section: {} for section in RunSpec.model_fields}
        for key, value in flat.items():
            nested[sections[key]][key] = _tuples(value)
        try:
            return RunSpec.model_validate(nested)
        except ValidationError as error:
            for key_path, details in errors_by_key(error).items():
                is_meant = details[0]["type"] == "missing" and key_path in self.meant
                if key_path not in self.reported and not is_meant:
                    self._type_problem(key_path, details)
            return None

    def _type_problem(self, key_path: KeyPath, details: list[ErrorDetails]) -> None:
        key = ".".join(str(part) for part in key_path)
        first = details[0]
        if first["type"] == "missing":
            self.problem(key_path, f"{key} is missing", _MISSING.get(key, "add it"))
        elif first["type"] == "extra_forbidden":
            self._unknown(key_path, [key for group in GROUPS for key in group.model_fields])
        else:
            self.problem(key_path, f"{key}: {mismatch(details)}", fix_of_value(key_path, details))


_NOT_TRAINED = "to train with preferences is not built yet"
_TEMPLATE = "chat_template_jinja"

LISTS_THAT_TAKE_ONE = (
    "lora_target_modules",
    "lora_modules_to_save",
    "lora_target_parameters",
    "feedforward_modules",
    "peft_layers_pattern",
    "report_to",
)
"""A text alone is read as a list of one."""

_MISSING = {
    "base_model": "base_model: a hub name or a local folder",
    "datasets": "datasets:\n  - path: data.jsonl\n    type: alpaca",
    "learning_rate": "2e-4 is usual for LoRA, 2e-5 for full fine-tuning",
}

_DEFAULTS_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "strict": (False, True),
    "remove_unused_columns": (False, True),
    "save_safetensors": (True,),
    "wandb_log_model": (False,),
    "wandb_watch": (False,),
    "debug": (False,),
    "pretrain_multipack_attn": (True,),
    **dict.fromkeys(SIZES, (1,)),
}


def is_default(key: str, value: Any) -> bool:
    """Whether a key without effect asks for nothing, so that it needs no word."""
    return value in (None, "", [], {}) or value in _DEFAULTS_WITHOUT_EFFECT.get(key, (False,))


def place(
    document: Document, options: dict[KeyPath, str], key_path: KeyPath, what: str, fix: str
) -> Problem:
    """A problem at the key's line, or at the option that set it."""
    for end in range(len(key_path), 0, -1):
        if key_path[:end] in options:
            return Problem(what, options[key_path[:end]], "", fix)
        if key_path[:end] in document.positions:
            break
    return document.problem(key_path, what, fix)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items() if item is not None}
    return value

"""The part of axolotl's Python interface that users' strategy files import.

While such a file is loaded, modules of these names stand in `sys.modules` (`installed()`):

    axolotl.prompters            AlpacaPrompter, PromptStyle, ...
    axolotl.prompt_tokenizers    InstructionPromptTokenizingStrategy, ...
    axolotl.prompt_strategies    a package, for files that import it
    axolotl.utils.{dict,logging} DictDefault, get_logger

The classes here render text; tokens and masks are made in ft.data.tokenize, as for every layout.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any, ClassVar

from ft.data import styles
from ft.data.segments import IGNORE_INDEX, Segment, Separate
from ft.data.tokenize import tokenize_separately


class StrategyConfig(dict[str, Any]):
    """What a file's `load(tokenizer, cfg)` gets: keys by name or attribute, None where missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __missing__(self, name: str) -> None:
        return None


class InvalidDataError(Exception):
    """A record that the strategy refuses; axolotl calls it InvalidDataException."""


class StyleName(Enum):
    """Names of the prompt styles; axolotl calls it PromptStyle."""

    INSTRUCT = "instruct"
    CHAT = "chat"
    CHATML = "chatml"
    PHI = "phi"


class Prompter:
    """Base of everything that builds prompts."""


class AlpacaPrompter(Prompter):
    """System text, instruction and input in one of the styles; subclasses set the texts."""

    system_prompt: str = styles.ALPACA_SYSTEM_WITH_INPUT
    system_no_input_prompt: str = styles.ALPACA_SYSTEM
    system_format: str = styles.INSTRUCT.system_format
    turn_format: str = styles.INSTRUCT.turn_format
    turn_no_input_format: str = styles.INSTRUCT.turn_no_input_format
    prompt_style: str | None = None

    def __init__(self, prompt_style: str | StyleName | None = StyleName.INSTRUCT.value) -> None:
        name = prompt_style.value if isinstance(prompt_style, StyleName) else prompt_style
        self.prompt_style = name or StyleName.INSTRUCT.value
        self.match_prompt_style()

    def match_prompt_style(self) -> None:
        """Sets the formats that belong to `prompt_style`."""
        style = styles.STYLES.get(str(self.prompt_style))
        if style is not None:
            self.system_format = style.system_format
            self.turn_format = style.turn_format
            self.turn_no_input_format = style.turn_no_input_format

    def build_prompt(
        self,
        instruction: str,
        input: str | None = None,
        output: str | None = None,
    ) -> Iterator[str]:
        """Yields the prompt, with the output behind it if one is given."""
        style = styles.PromptStyle(self.system_format, self.turn_format, self.turn_no_input_format)
        system = self.system_prompt if input else self.system_no_input_prompt
        yield style.render(system, instruction, input or "") + (output or "")


class UnpromptedPrompter(AlpacaPrompter):
    """An `AlpacaPrompter` without system text."""

    system_prompt = ""
    system_no_input_prompt = ""


class DatasetWrappingStrategy:
    """Base of strategies; files name it in annotations."""


class PromptTokenizingStrategy(DatasetWrappingStrategy):
    """A strategy of a user's file that makes its own tokens, with `self._tokenize`."""

    def __init__(
        self,
        prompter: Any,
        tokenizer: Any,
        train_on_inputs: bool = False,
        sequence_len: int = 2048,
    ) -> None:
        self.prompter = prompter
        self.tokenizer = tokenizer
        self.train_on_inputs = bool(train_on_inputs)
        self.sequence_len = sequence_len
        self.max_length = sequence_len

    @property
    def supports_batched(self) -> bool:
        """Whether `tokenize_prompt` takes columns instead of one record."""
        return False

    def _tokenize(
        self, prompt: str, add_eos_token: bool = True, strip_bos_token: bool = False
    ) -> dict[str, list[int]]:
        """Ids, attention mask and labels of one text that is trained throughout."""
        segment = Segment(prompt, is_trained=True, ends_turn=add_eos_token)
        # Only a segment that follows another one loses its BOS; an empty one has no tokens.
        lead = (Segment(""),) if strip_bos_token else ()
        row = tokenize_separately([Separate((*lead, segment), self.max_length)], self.tokenizer)[0]
        return _as_columns(row.input_ids, row.labels)


class InstructionPromptTokenizingStrategy(PromptTokenizingStrategy):
    """A strategy whose records are an instruction, an input and a response."""

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """Instruction, input and response of a record; every subclass has its own."""
        raise TypeError(f"{type(self).__name__} lacks parse_instruction_fields")

    def segments(self, prompt: Any) -> Separate:
        """The prompt that the prompter builds, then the response."""
        instruction, input_text, response = self.parse_instruction_fields(prompt)
        text = next(iter(self.prompter.build_prompt(instruction, input_text)))
        return Separate(
            (Segment(text, self.train_on_inputs), Segment(response, True, ends_turn=True)),
            self.max_length,
        )

    def tokenize_prompt(self, prompt: Any) -> dict[str, list[int]]:
        """Ids, attention mask and labels of a record."""
        row = tokenize_separately([self.segments(prompt)], self.tokenizer)[0]
        return _as_columns(row.input_ids, row.labels)

    @classmethod
    def renders_segments(cls) -> bool:
        """Whether a subclass left tokenization to us, so that it may happen in batches."""
        base = InstructionPromptTokenizingStrategy
        return cls.tokenize_prompt is base.tokenize_prompt and cls._tokenize is base._tokenize


class _FieldsStrategy(InstructionPromptTokenizingStrategy):
    """Instruction, input, response from fields of the names that the subclass gives."""

    names: ClassVar[tuple[str, str, str]]

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        instruction, input_name, response = self.names
        return prompt[instruction], prompt.get(input_name) or "", prompt[response]


class AlpacaPromptTokenizingStrategy(_FieldsStrategy):
    """instruction, input, output."""

    names = ("instruction", "input", "output")


class GPTeacherPromptTokenizingStrategy(_FieldsStrategy):
    """instruction, input, response."""

    names = ("instruction", "input", "response")


class OpenAssistantPromptTokenizingStrategy(_FieldsStrategy):
    """INSTRUCTION, RESPONSE."""

    names = ("INSTRUCTION", "", "RESPONSE")


def tokenize_prompt_default() -> tuple[dict[str, list[int]], int]:
    """An empty row to append to, and its length."""
    return {"input_ids": [], "attention_mask": [], "labels": []}, 0


def parse_tokenized_to_result(
    result: dict[str, list[int]],
    current_len: int,
    res: Mapping[str, list[int]],
    labels: list[int],
    pad_token_id: int | None = None,
) -> tuple[dict[str, list[int]], int]:
    """Appends a tokenized piece with its labels to a row; gives the row and its new length."""
    ids = list(res["input_ids"])
    result["input_ids"] += ids
    result["attention_mask"] += [int(token != pad_token_id) for token in ids]
    result["labels"] += list(labels)
    return result, current_len + len(ids)


def _as_columns(input_ids: list[int], labels: list[int]) -> dict[str, list[int]]:
    return {"input_ids": input_ids, "attention_mask": [1] * len(input_ids), "labels": labels}


_MODULES: dict[str, dict[str, Any]] = {
    "axolotl": {},
    "axolotl.prompt_strategies": {},
    "axolotl.utils": {},
    "axolotl.utils.dict": {"DictDefault": StrategyConfig},
    "axolotl.utils.logging": {"get_logger": logging.getLogger},
    "axolotl.prompters": {
        "AlpacaPrompter": AlpacaPrompter,
        "GPTeacherPrompter": AlpacaPrompter,
        "IGNORE_TOKEN_ID": IGNORE_INDEX,
        "Prompter": Prompter,
        "PromptStyle": StyleName,
        "UnpromptedPrompter": UnpromptedPrompter,
    },
    "axolotl.prompt_tokenizers": {
        "AlpacaPromptTokenizingStrategy": AlpacaPromptTokenizingStrategy,
        "DatasetWrappingStrategy": DatasetWrappingStrategy,
        "GPTeacherPromptTokenizingStrategy": GPTeacherPromptTokenizingStrategy,
        "IGNORE_INDEX": IGNORE_INDEX,
        "InstructionPromptTokenizingStrategy": InstructionPromptTokenizingStrategy,
        "InvalidDataException": InvalidDataError,
        "OpenAssistantPromptTokenizingStrategy": OpenAssistantPromptTokenizingStrategy,
        "PromptTokenizingStrategy": PromptTokenizingStrategy,
        "parse_tokenized_to_result": parse_tokenized_to_result,
        "tokenize_prompt_default": tokenize_prompt_default,
    },
}


@contextmanager
def installed() -> Iterator[None]:
    """The modules stand in `sys.modules`; afterwards it is as it was, a real axolotl included."""
    hidden = {name: module for name, module in sys.modules.items() if _is_axolotl(name)}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(_build_modules())
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_axolotl(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _is_axolotl(name: str) -> bool:
    return name == "axolotl" or name.startswith("axolotl.")


def _build_modules() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name, "ft's stand-in for axolotl") for name in _MODULES}
    for name, contents in _MODULES.items():
        modules[name].__dict__.update(contents)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
        if any(other.startswith(f"{name}.") for other in _MODULES) or not contents:
            modules[name].__path__ = []
    return modules

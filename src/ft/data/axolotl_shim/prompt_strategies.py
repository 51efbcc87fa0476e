"""axolotl.prompt_strategies: the built-in layouts, for files that load one or build on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ft.data.axolotl_shim import prompt_tokenizers, prompters
from ft.data.axolotl_shim.prompt_tokenizers import (
    FieldsStrategy,
    InstructionPromptTokenizingStrategy,
    InstructionWSystemPromptTokenizingStrategy,
    OpenOrcaPromptTokenizingStrategy,
)
from ft.data.axolotl_shim.prompters import (
    AlpacaPrompter,
    OpenOrcaSystemDataPrompter,
    StyleName,
    SystemDataPrompter,
)
from ft.data.layout import Strategy, StrategyOptions
from ft.data.layouts import LAYOUTS, mapping_layout
from ft.data.layouts.answers import CONTEXT_SYSTEM, NO_ANSWER
from ft.data.layouts.instruct import CONCISE
from ft.data.segments import Rendered
from ft.data.tokenize import tokenize
from ft.spec.runspec import DatasetSpec, MappingLayout

_MODULE_NAMES = (
    "alpaca_chat",
    "alpaca_instruct",
    "alpaca_w_system",
    "chat_template",
    "completion",
    "context_qa",
    "creative_acr",
    "input_output",
    "llama2_chat",
    "metharme",
    "orcamini",
    "pygmalion",
)


class LayoutStrategy:
    """A built-in layout with the interface of a strategy file's own."""

    supports_batched = False

    def __init__(self, layout: Strategy, tokenizer: Any) -> None:
        self.layout = layout
        self.tokenizer = tokenizer

    def render(self, record: Mapping[str, Any]) -> Rendered:
        """What the layout makes of a record."""
        return self.layout.render(record)

    def tokenize_prompt(self, prompt: Mapping[str, Any]) -> dict[str, list[int]]:
        """Ids, attention mask and labels of a record."""
        row = tokenize([self.render(prompt)], self.tokenizer)[0][0]
        mask = [1] * len(row.input_ids)
        return {"input_ids": row.input_ids, "attention_mask": mask, "labels": row.labels}


class AlpacaConcisePrompter(AlpacaPrompter):
    """Asks for concise answers."""

    system_prompt = CONCISE.with_input
    system_no_input_prompt = CONCISE.without_input


class AlpacaChatPrompter(AlpacaConcisePrompter):
    """Asks for concise answers in a chat."""

    def __init__(self) -> None:
        super().__init__(StyleName.CHAT)


class NoSystemPrompter(AlpacaPrompter):
    """Instruction and input, and nothing around them."""

    system_prompt = ""
    system_no_input_prompt = ""
    turn_format = "{instruction} {input} "
    turn_no_input_format = "{instruction} "

    def __init__(self) -> None:
        """There is no style to choose."""


class AlpacaQAPromptTokenizingStrategy(FieldsStrategy):
    """question, answer."""

    names = ("question", "", "answer")


class CamelAIPromptTokenizingStrategy(FieldsStrategy):
    """message_1, message_2."""

    names = ("message_1", "", "message_2")


class AlpacaContextPrompter(AlpacaPrompter):
    """Asks for a concise answer from a context."""

    system_prompt = CONTEXT_SYSTEM
    system_no_input_prompt = CONTEXT_SYSTEM


class ContextV2Prompter(AlpacaPrompter):
    """The instruction as it is."""

    system_prompt = ""
    system_no_input_prompt = ""

    def match_prompt_style(self) -> None:
        """One style, whatever is asked for."""
        self.system_format = "{system}"
        self.turn_format = "{instruction}\n{input}"
        self.turn_no_input_format = "{instruction}"


class AlpacaContextPromptTokenizingStrategy(InstructionPromptTokenizingStrategy):
    """article, question, answer."""

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """Article and question, with a line between them."""
        return prompt["article"] + "\n===\n" + prompt["question"], "", prompt["answer"]


class AlpacaMissingInfoContextPromptTokenizingStrategy(InstructionPromptTokenizingStrategy):
    """article, unanswerable_question."""

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """Article and question, with a line between them; there is no answer."""
        return prompt["article"] + "\n===\n" + prompt["unanswerable_question"], "", NO_ANSWER


class ContextQaV2PromptTokenizingStrategy(InstructionPromptTokenizingStrategy):
    """context, question, answer."""

    def parse_instruction_fields(self, prompt: Any) -> tuple[str, str, str]:
        """Context, question and answer, each behind its name."""
        asked = "Context: " + prompt["context"] + "\nQuestion: " + prompt["question"] + "\n"
        return asked, "", "Answer: " + prompt["answer"]


class OrcaMiniPrompter(AlpacaPrompter):
    """The words of Orca Mini."""

    def match_prompt_style(self) -> None:
        """One style, whatever is asked for."""
        self.turn_no_input_format = (
            "### System:\n{system}\n\n### User:\n{instruction}\n\n### Response:\n"
        )

    def build_prompt_w_system(
        self, system: str, instruction: str, output: str | None = None
    ) -> Iterator[str]:
        """Yields the prompt, with the output behind it if one is given."""
        prompt = self.turn_no_input_format.format(system=system, instruction=instruction)
        yield prompt + (output or "")


class UserDefinedPromptTokenizationStrategy(InstructionWSystemPromptTokenizingStrategy):
    """Of a layout that the YAML describes."""


def _load_user_defined(tokenizer: Any, cfg: Any, ds_cfg: Any = None) -> LayoutStrategy:
    """`user_defined.load`; `ds_cfg` holds the keys of `type:` as a mapping."""
    given = ds_cfg if isinstance(ds_cfg, Mapping) else dict(ds_cfg)
    layout = MappingLayout.model_validate({k: v for k, v in given.items() if v is not None})
    return LayoutStrategy(mapping_layout(layout, _options(cfg)), tokenizer)


def _load_built_in(name: str) -> Callable[..., LayoutStrategy]:
    """The `load` function of a layout."""

    def load(tokenizer: Any, cfg: Any, ds_cfg: Any = None, **_: Any) -> LayoutStrategy:
        given = {key: value for key, value in (ds_cfg or {}).items() if value is not None}
        spec = DatasetSpec.model_validate({**given, "path": "-", "type": name})
        return LayoutStrategy(LAYOUTS[name].build(spec, _options(cfg), tokenizer), tokenizer)

    return load


def _options(cfg: Any) -> StrategyOptions:
    return StrategyOptions(cfg.sequence_len, bool(cfg.train_on_inputs))


def _load_functions() -> dict[str, dict[str, Any]]:
    modules: dict[str, dict[str, Any]] = defaultdict(dict)
    for name in LAYOUTS:
        module, _, function = name.partition(".")
        if module in _MODULE_NAMES:
            modules[module][function or "load"] = _load_built_in(name)
    return modules


def _named(*classes: type) -> dict[str, Any]:
    return {each.__name__: each for each in classes}


_CLASSES: dict[str, dict[str, Any]] = {
    "alpaca_chat": _named(
        AlpacaChatPrompter,
        AlpacaConcisePrompter,
        AlpacaQAPromptTokenizingStrategy,
        CamelAIPromptTokenizingStrategy,
        NoSystemPrompter,
    ),
    "alpaca_w_system": _named(
        InstructionWSystemPromptTokenizingStrategy,
        OpenOrcaPromptTokenizingStrategy,
        OpenOrcaSystemDataPrompter,
        SystemDataPrompter,
    ),
    "context_qa": _named(
        AlpacaContextPrompter,
        AlpacaContextPromptTokenizingStrategy,
        AlpacaMissingInfoContextPromptTokenizingStrategy,
        ContextQaV2PromptTokenizingStrategy,
        ContextV2Prompter,
    ),
    "orcamini": _named(OrcaMiniPrompter, OpenOrcaPromptTokenizingStrategy),
}

MODULES: dict[str, dict[str, Any]] = {
    # What a module imports can be imported from it, too: files do that.
    **{
        name: {**prompters.NAMES, **prompt_tokenizers.NAMES, **_CLASSES.get(name, {}), **functions}
        for name, functions in _load_functions().items()
    },
    "user_defined": {
        **_named(UserDefinedPromptTokenizationStrategy, InstructionWSystemPromptTokenizingStrategy),
        **_named(SystemDataPrompter),
        "UserDefinedDatasetConfig": MappingLayout,
        "load": _load_user_defined,
    },
}
"""Module -> what it holds."""

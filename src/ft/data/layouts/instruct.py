"""The alpaca family: an instruction, perhaps an input, in one of several styles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ft.data import styles
from ft.data.layout import Fields, LayoutFields, list_field
from ft.data.layouts.pair import BuiltIn, Part, optional, pair, text, written
from ft.data.segments import RecordError
from ft.data.styles import PromptStyle

_CONCISE = (
    "Below is an instruction from a USER that describes a task. The ASSISTANT writes a response "
    "that appropriately and concisely completes the request.\n\n"
)
_CONCISE_WITH_INPUT = (
    "Below is an instruction from a USER that describes a task, paired with an input that provides "
    "further context. The ASSISTANT writes a response that concisely and appropriately completes "
    "the request.\n\n"
)
_EXPLAIN_CHOICE = "Choose the answer that best answers the question. Explain your reasoning.\n"
_CONCISE_CHOICE = (
    "Choose the answer that best answers the question. Be concise in your response.\n\n"
)


@dataclass(frozen=True)
class System:
    """The system text of records without and with an input."""

    without_input: str = ""
    with_input: str = ""


ALPACA = System(styles.ALPACA_SYSTEM, styles.ALPACA_SYSTEM_WITH_INPUT)
CONCISE = System(_CONCISE, _CONCISE_WITH_INPUT)
EXPLAIN_CHOICE = System(_EXPLAIN_CHOICE, _EXPLAIN_CHOICE)
CONCISE_CHOICE = System(_CONCISE_CHOICE, _CONCISE_CHOICE)
NO_SYSTEM = System()

ALPACA_FIELDS = LayoutFields(("instruction",), ("output",), ("input",), "instruction")
GPTEACHER_FIELDS = LayoutFields(("instruction",), ("response",), ("input",), "instruction")
OASST_FIELDS = LayoutFields(("INSTRUCTION",), ("RESPONSE",), (), "INSTRUCTION")
QA_FIELDS = LayoutFields(("question",), ("answer",), (), "question")
CAMEL_FIELDS = LayoutFields(("message_1",), ("message_2",), (), "message_1")
JEOPARDY_FIELDS = LayoutFields(("question",), ("answer",), ("category",), "question", "what is ")
CHOICE_FIELDS = LayoutFields(("question", "choices"), ("solution", "explanation"), (), "question")
TLDR_FIELDS = LayoutFields(("article",), ("summary",), (), "article")
SYSTEM_FIELDS = LayoutFields(("instruction",), ("output",), ("input", "system"), "instruction")
ORCA_FIELDS = LayoutFields(("question",), ("response",), ("system_prompt",), "question")


def instruct(
    fields: LayoutFields,
    style: PromptStyle,
    system: System | Part,
    input_text: Part | None = None,
    response: Part | None = None,
) -> BuiltIn:
    """A layout of the family.

    Args:
        fields: What it reads; the first of `prompt` is the instruction.
        style: How the parts are put together.
        system: The system text, or where a record has its own.
        input_text: Where the input is; nothing = `input`, if the fields name it.
        response: The trained text, if it isn't a field as it stands.
    """
    instruction = written(fields.prompt[0])
    read_input = input_text or (optional("input") if "input" in fields.optional else _nothing)

    def prompt(record: Fields) -> str:
        found = read_input(record)
        if isinstance(system, System):
            system_text = system.with_input if found else system.without_input
        else:
            system_text = system(record)
        return style.render(system_text, instruction(record), found)

    return pair(fields, prompt, response)


def _nothing(record: Fields) -> str:
    return ""


def _choices(record: Fields) -> str:
    """The choices as a list, one a line."""
    choices = list_field(record, "choices")
    for choice in choices:
        if not isinstance(choice, str | int | float):
            raise RecordError("a choice is no text", repr(choice)[:200])
    return "\n".join(f'- "{choice}"' for choice in choices)


def _solution(record: Fields) -> str:
    return text("solution" if "solution" in record else "explanation")(record)


_IN_STYLES: dict[str, Callable[[PromptStyle], BuiltIn]] = {
    "alpaca": lambda style: instruct(ALPACA_FIELDS, style, ALPACA),
    "gpteacher": lambda style: instruct(GPTEACHER_FIELDS, style, ALPACA),
    "oasst": lambda style: instruct(OASST_FIELDS, style, ALPACA),
    "jeopardy": lambda style: instruct(
        JEOPARDY_FIELDS, style, ALPACA, optional("category"), text("answer")
    ),
    "explainchoice": lambda style: instruct(
        CHOICE_FIELDS, style, EXPLAIN_CHOICE, _choices, _solution
    ),
    # These two have one style, whatever is asked for.
    "concisechoice": lambda style: instruct(
        CHOICE_FIELDS, styles.BARE_CHAT, CONCISE_CHOICE, _choices, _solution
    ),
    "summarizetldr": lambda style: instruct(TLDR_FIELDS, styles.SUMMARIZE, NO_SYSTEM),
}

LAYOUTS: dict[str, BuiltIn] = {
    **{name: make(styles.INSTRUCT) for name, make in _IN_STYLES.items()},
    **{
        f"{name}:{style_name}": make(style)
        for name, make in _IN_STYLES.items()
        for style_name, style in styles.STYLES.items()
    },
    "alpaca_instruct": instruct(ALPACA_FIELDS, styles.INSTRUCT, ALPACA),
    "alpaca_instruct.load_no_prompt": instruct(ALPACA_FIELDS, styles.INSTRUCT, NO_SYSTEM),
    "alpaca_chat": instruct(ALPACA_FIELDS, styles.CHAT, ALPACA),
    "alpaca_chat.load_concise": instruct(ALPACA_FIELDS, styles.CHAT, CONCISE),
    "alpaca_chat.load_no_prompt": instruct(ALPACA_FIELDS, styles.CHAT, NO_SYSTEM),
    "alpaca_chat.load_qa": instruct(QA_FIELDS, styles.CHAT, CONCISE),
    "alpaca_chat.load_camel_ai": instruct(CAMEL_FIELDS, styles.CHAT, CONCISE),
    "alpaca_w_system": instruct(SYSTEM_FIELDS, styles.CHAT, optional("system")),
    "alpaca_w_system.load_chat": instruct(SYSTEM_FIELDS, styles.CHAT, optional("system")),
    "alpaca_w_system.load_instruct": instruct(SYSTEM_FIELDS, styles.INSTRUCT, optional("system")),
    "alpaca_w_system.load_open_orca": instruct(
        ORCA_FIELDS, styles.OPEN_ORCA, optional("system_prompt")
    ),
    "alpaca_w_system.load_open_orca_chatml": instruct(
        ORCA_FIELDS, styles.CHATML, optional("system_prompt")
    ),
}
"""`NAME:STYLE` is there for the seven that take a style."""

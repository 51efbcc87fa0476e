"""axolotl.prompters: classes that build prompts, for users' strategy files."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from ft.data import styles
from ft.data.layouts.instruct import CONCISE_CHOICE, EXPLAIN_CHOICE
from ft.data.segments import IGNORE_INDEX


class StyleName(Enum):
    """Names of the prompt styles; axolotl calls it PromptStyle."""

    INSTRUCT = "instruct"
    CHAT = "chat"
    CHATML = "chatml"
    PHI = "phi"


class Prompter:
    """Base of everything that builds prompts."""


class UnsupportedPrompter(Prompter):
    """Stands where there is none."""


class AlpacaPrompter(Prompter):
    """System text, instruction and input in one of the styles; subclasses set the texts."""

    system_prompt: str = styles.ALPACA_SYSTEM_WITH_INPUT
    system_no_input_prompt: str = styles.ALPACA_SYSTEM
    system_format: str = "{system}"
    turn_format: str
    turn_no_input_format: str
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
        yield self._build_result(instruction, input, output)

    def _build_result(self, instruction: str, input_text: str | None, output: str | None) -> str:
        system = self.system_prompt if input_text else self.system_no_input_prompt
        return self._render(system, instruction, input_text, output)

    def _render(
        self, system: str | None, instruction: str, input_text: str | None, output: str | None
    ) -> str:
        # Attributes are read late and one by one: a file may set only those that it needs.
        head = self.system_format.format(system=system) if system else ""
        if input_text:
            turn = self.turn_format.format(instruction=instruction, input=input_text)
        else:
            turn = self.turn_no_input_format.format(instruction=instruction)
        return head + turn + (output or "")


class UnpromptedPrompter(AlpacaPrompter):
    """An `AlpacaPrompter` without system text."""

    system_prompt = ""
    system_no_input_prompt = ""


class GPTeacherPrompter(AlpacaPrompter):
    """GPTeacher's."""


class NomicGPT4AllPrompter(AlpacaPrompter):
    """GPT4All's."""


class JeopardyPrompter(AlpacaPrompter):
    """Jeopardy's."""


class MultipleChoiceExplainPrompter(AlpacaPrompter):
    """Asks for the right choice and the reasons."""

    system_prompt = EXPLAIN_CHOICE.with_input
    system_no_input_prompt = EXPLAIN_CHOICE.without_input


class MultipleChoiceConcisePrompter(AlpacaPrompter):
    """Asks for the right choice."""

    system_prompt = CONCISE_CHOICE.with_input
    system_no_input_prompt = CONCISE_CHOICE.without_input

    def match_prompt_style(self) -> None:
        """One style, whatever is asked for."""
        self.turn_format = styles.BARE_CHAT.turn_format
        self.turn_no_input_format = styles.BARE_CHAT.turn_no_input_format


class SummarizeTLDRPrompter(UnpromptedPrompter):
    """Asks for a summary."""

    def match_prompt_style(self) -> None:
        """One style, whatever is asked for."""
        self.turn_format = styles.SUMMARIZE.turn_format
        self.turn_no_input_format = styles.SUMMARIZE.turn_no_input_format


class SystemDataPrompter(AlpacaPrompter):
    """An `AlpacaPrompter` whose system text comes from the record."""

    system_format = "### System:\n{system}\n\n"

    def build_prompt_w_system(
        self,
        system: str | None,
        instruction: str,
        input: str | None = None,
        output: str | None = None,
    ) -> Iterator[str]:
        """Yields the prompt, with the output behind it if one is given."""
        yield self._render(system, instruction, input, output)


class OpenOrcaSystemDataPrompter(SystemDataPrompter):
    """The words of OpenOrca."""

    def match_prompt_style(self) -> None:
        """OpenOrca's own words stand for the instruct style."""
        super().match_prompt_style()
        if self.prompt_style == StyleName.INSTRUCT.value:
            self.system_format = styles.OPEN_ORCA.system_format
            self.turn_format = styles.OPEN_ORCA.turn_format
            self.turn_no_input_format = styles.OPEN_ORCA.turn_no_input_format


NAMES: dict[str, Any] = {
    "ALTERNATING_ASSERTION_FAILED_ROLE": "human and gpt do not alternate",
    "IGNORE_TOKEN_ID": IGNORE_INDEX,
    "PromptStyle": StyleName,
    **{
        each.__name__: each
        for each in (
            AlpacaPrompter,
            GPTeacherPrompter,
            JeopardyPrompter,
            MultipleChoiceConcisePrompter,
            MultipleChoiceExplainPrompter,
            NomicGPT4AllPrompter,
            Prompter,
            SummarizeTLDRPrompter,
            UnpromptedPrompter,
            UnsupportedPrompter,
        )
    },
}
"""What `axolotl.prompters` holds."""

"""How instruction, input and system text are put together: the styles of the alpaca family."""

from __future__ import annotations

from dataclasses import dataclass, replace

ALPACA_SYSTEM_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """Templates in the language of `str.format`.

    Attributes:
        system_format: Takes `{system}`; used only if there is a system text.
        turn_format: Takes `{instruction}` and `{input}`.
        turn_no_input_format: Takes `{instruction}`; used if the input is empty.
    """

    system_format: str
    turn_format: str
    turn_no_input_format: str

    def render(self, system: str, instruction: str, input_text: str = "") -> str:
        """The prompt, up to where the response begins."""
        # One `format` for all of it: a long instruction is copied once.
        head = self.system_format if system else ""
        turn = self.turn_format if input_text else self.turn_no_input_format
        return (head + turn).format(system=system, instruction=instruction, input=input_text)


INSTRUCT = PromptStyle(
    system_format="{system}\n\n",
    turn_format="### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
    turn_no_input_format="### Instruction:\n{instruction}\n\n### Response:\n",
)
CHAT = PromptStyle(
    system_format="SYSTEM: {system}\n",
    turn_format="USER: {instruction}\n{input}\nASSISTANT:",
    turn_no_input_format="USER: {instruction}\nASSISTANT:",
)
CHATML = PromptStyle(
    system_format="<|im_start|>system\n{system}<|im_end|>\n",
    turn_format="<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n",
    turn_no_input_format="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
)
PHI = PromptStyle(
    system_format="<|system|>\n{system}<|end|>\n",
    turn_format="<|user|>\n{instruction}<|end|>{input}<|assistant|>",
    turn_no_input_format="<|user|>\n{instruction}<|end|>\n<|assistant|>\n",
)
STYLES = {"instruct": INSTRUCT, "chat": CHAT, "chatml": CHATML, "phi": PHI}
"""Names as in `type: alpaca:chat`."""

BARE_CHAT = replace(CHAT, system_format="{system}")
OPEN_ORCA = PromptStyle(
    system_format="### System:\n{system}\n",
    turn_format=("### Human:\n{instruction}\n### Additional Context:\n{input}\n### Assistant:\n"),
    turn_no_input_format="### Human:\n{instruction}\n### Assistant:\n",
)
SUMMARIZE = PromptStyle(
    system_format="{system}",
    turn_format=(
        "USER: Summarize the following article as a TL;DR.\n{instruction}\n{input}\nASSISTANT:"
    ),
    turn_no_input_format=(
        "USER: Summarize the following article as a TL;DR.\n{instruction}\nASSISTANT:"
    ),
)

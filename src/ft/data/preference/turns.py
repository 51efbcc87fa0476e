"""How turns are written where a layout's name says it: chatml, llama3, zephyr."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TurnStyle:
    """The words around turns.

    Attributes:
        turn_format: Takes `{role}` and `{content}`.
        opening: Begins the model's turn.
        end: Ends an answer.
    """

    turn_format: str
    opening: str
    end: str

    def prompt(self, turns: Iterable[tuple[str, str]]) -> str:
        """The turns (role, content), up to where the model's answer begins."""
        written = [self.turn_format.format(role=role, content=text) for role, text in turns]
        return "".join(written) + self.opening

    def answer(self, content: str) -> str:
        """The model's answer and its end."""
        return content + self.end


CHATML = TurnStyle(
    turn_format="<|im_start|>{role}\n{content}<|im_end|>\n",
    opening="<|im_start|>assistant\n",
    end="<|im_end|>",
)
LLAMA3 = TurnStyle(
    turn_format="<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
    opening="<|start_header_id|>assistant<|end_header_id|>\n\n",
    end="<|eot_id|>",
)
ZEPHYR = TurnStyle(
    turn_format="<|{role}|>\n{content}</s>\n",
    opening="<|assistant|>\n",
    end="",
)
NAMED_STYLES = {"chatml": CHATML, "llama3": LLAMA3}
"""The styles that come first in a layout's name, and all sources of columns second."""

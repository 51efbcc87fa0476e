"""What a preference layout makes of a record: texts, before they are tokens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preference:
    """Two answers to one prompt, for dpo, ipo, simpo and orpo.

    Attributes:
        prompt: Up to where the answer begins.
        chosen: The better answer, with what ends it.
        rejected: The worse one, likewise.
        doubt: What looks wrong with these texts, although they are what axolotl trains on.
    """

    prompt: str
    chosen: str
    rejected: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer and whether it is a good one, for kto.

    Attributes:
        prompt: Up to where the answer begins.
        completion: The answer, with what ends it.
        is_desirable: More of these, or less.
    """

    prompt: str
    completion: str
    is_desirable: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two whole conversations that differ in their last turn, for a reward model.

    Attributes:
        opening: What both begin with, up to the last turn's content.
        chosen: The better conversation, from its first token to its last.
        rejected: The worse one, likewise.
    """

    opening: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Steps:
    """A chain of steps, each of them right or wrong, for a process reward model.

    Attributes:
        prompt: The task.
        completions: The steps, in order.
        labels: Each step's class: 1 = right, 0 = wrong.
    """

    prompt: str
    completions: tuple[str, ...]
    labels: tuple[int, ...]


PreferenceRecord = Preference | Judged | Comparison | Steps

"""Task metrics: one answer against its reference -> a number between 0 and 1."""

from __future__ import annotations

import re
import string
from collections.abc import Callable

Metric = Callable[[str, str], float]

_QUOTES = str.maketrans(dict.fromkeys('\u201c\u201d\u2018\u2019`"', "'"))
_SPACE = re.compile(r"\s+")


def exact_match(answer: str, reference: str) -> float:
    """1 if the texts are equal, white space around them aside."""
    return float(answer.strip() == reference.strip())


def normalized_exact_match(answer: str, reference: str) -> float:
    """1 if the texts are equal up to case, white space, kind of quotes and closing punctuation."""
    return float(_normalized(answer) == _normalized(reference))


def _normalized(text: str) -> str:
    text = _SPACE.sub(" ", text.translate(_QUOTES).casefold()).strip()
    return text.rstrip(string.punctuation.replace("'", "").replace(")", "") + " ")


METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "normalized_exact_match": normalized_exact_match,
}

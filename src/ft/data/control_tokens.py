"""Records whose own text spells a control token: `<|im_end|>` in a question ends the turn there.

Tokenizers read such a spelling as the token, in axolotl as here, so a record from outside can write
turns of its own. The tokens stay what they are; the records are counted and the first is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ControlTokens:
    """The spellings of a tokenizer's special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = tokenizer.added_tokens_decoder.values()
        spellings = {token.content for token in added if token.special}
        spellings |= set(tokenizer.all_special_tokens)
        longest_first = sorted(filter(None, spellings), key=lambda each: (-len(each), each))
        self._beginnings = {each[0] for each in longest_first}
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def first_in(self, value: Any) -> str:
        """The first spelling in a record's texts; empty if there is none."""
        for text in _texts(value):
            # Most texts have not even a `<`, and looking for one letter is quick.
            has_beginning = any(letter in text for letter in self._beginnings)
            if has_beginning and (found := self._pattern.search(text)):
                return found[0]
        return ""


def _texts(value: Any) -> Iterator[str]:
    """Every text in a record's fields, turns and their parts included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)

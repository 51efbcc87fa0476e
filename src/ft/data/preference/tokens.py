"""Prompts and answers -> ids and labels, one row an answer, as the trainers behind axolotl do it.

The four ways differ in what stands at the ends and at the seam between prompt and answer:
    pairs of dpo, ipo; kto   the tokenizer's special tokens; the end token is appended as text;
                             the prompt keeps the tokens that it has by itself
    pairs of orpo, simpo     no special tokens but one BOS and one end token, appended as ids;
                             a token that grows over the seam belongs to the answer
    reward models            whole conversations without further special tokens, cut to the length
    process reward models    steps tokenized on their own; a class at each step's last token
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from ft.data.preference.records import (
    Comparison,
    Judged,
    Preference,
    PreferenceRecord,
    Steps,
)
from ft.data.segments import IGNORE_INDEX, Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Rows = Mapping[str, Tokens]
"""The rows of one record by the part that each shows: chosen and rejected, completion, or steps."""


class Tokenization(Protocol):
    """Records -> rows."""

    def rows(
        self, records: Sequence[PreferenceRecord], tokenizer: PreTrainedTokenizerBase
    ) -> list[Rows]:
        """The rows of each record."""


def _answers(record: PreferenceRecord) -> dict[str, str]:
    """A record's answers by their part's name."""
    if isinstance(record, Judged):
        return {"completion": record.completion}
    assert isinstance(record, Preference | Comparison)
    return {"chosen": record.chosen, "rejected": record.rejected}


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, is_bare: bool
) -> Iterator[list[int]]:
    if not texts:
        return iter(())
    encoded = tokenizer(
        list(texts), add_special_tokens=not is_bare, return_attention_mask=False, verbose=False
    )
    return iter(encoded["input_ids"])


def _masked(input_ids: list[int], num_masked: int) -> Tokens:
    num_masked = min(num_masked, len(input_ids))
    return Tokens(input_ids, [IGNORE_INDEX] * num_masked + input_ids[num_masked:])


@dataclass(frozen=True)
class EndedByText:
    """dpo, ipo and kto: special tokens as the tokenizer puts them, the end token as text.

    Attributes:
        has_single_bos: Of a BOS in the text and the tokenizer's own, one is left (dpo, ipo).
    """

    has_single_bos: bool

    def rows(
        self, records: Sequence[PreferenceRecord], tokenizer: PreTrainedTokenizerBase
    ) -> list[Rows]:
        """Prompt (not trained), then the answer with its end token."""
        texts: list[str] = []
        for record in records:
            assert isinstance(record, Preference | Judged)
            texts.append(record.prompt)
            texts += [
                record.prompt + self._ended(answer, tokenizer)
                for answer in _answers(record).values()
            ]
        encoded = map(
            lambda ids: self._without_second_bos(ids, tokenizer),
            _encode(texts, tokenizer, is_bare=False),
        )
        rows: list[Rows] = []
        for record in records:
            prompt = next(encoded)
            rows.append(
                {
                    part: _masked(prompt + next(encoded)[len(prompt) :], len(prompt))
                    for part in _answers(record)
                }
            )
        return rows

    @staticmethod
    def _ended(answer: str, tokenizer: PreTrainedTokenizerBase) -> str:
        end = tokenizer.eos_token or ""
        return answer if answer.endswith(end) else answer + end

    def _without_second_bos(self, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
        bos = tokenizer.bos_token_id
        is_doubled = bos is not None and ids[:2] == [bos, bos]
        return ids[1:] if self.has_single_bos and is_doubled else ids


@dataclass(frozen=True)
class EndedById:
    """orpo and simpo: bare texts between one BOS and one end token."""

    def rows(
        self, records: Sequence[PreferenceRecord], tokenizer: PreTrainedTokenizerBase
    ) -> list[Rows]:
        """Prompt (not trained), then the answer with its end token."""
        texts: list[str] = []
        for record in records:
            assert isinstance(record, Preference)
            texts += [record.prompt, record.prompt + record.chosen, record.prompt + record.rejected]
        encoded = _encode(texts, tokenizer, is_bare=True)
        rows: list[Rows] = []
        for record in records:
            prompt = next(encoded)
            rows.append(
                {part: self._row(prompt, next(encoded), tokenizer) for part in _answers(record)}
            )
        return rows

    @staticmethod
    def _row(prompt: list[int], whole: list[int], tokenizer: PreTrainedTokenizerBase) -> Tokens:
        num_masked = len(prompt)
        if whole[:num_masked] != prompt:
            num_masked -= 1
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        if bos is not None and (num_masked <= 0 or whole[0] != bos):
            whole, num_masked = [bos, *whole], max(num_masked, 0) + 1
        if eos is not None and (len(whole) <= num_masked or whole[-1] != eos):
            whole = [*whole, eos]
        return _masked(whole, num_masked)


@dataclass(frozen=True)
class Scored:
    """Reward models: a conversation's score is read at its last token, which carries the label.

    Attributes:
        max_tokens: Conversations are cut there.
    """

    max_tokens: int

    def rows(
        self, records: Sequence[PreferenceRecord], tokenizer: PreTrainedTokenizerBase
    ) -> list[Rows]:
        """Both conversations, whole."""
        texts: list[str] = []
        for record in records:
            assert isinstance(record, Comparison)
            texts += [record.opening, record.chosen, record.rejected]
        encoded = _encode(texts, tokenizer, is_bare=True)
        rows: list[Rows] = []
        for record in records:
            opening = next(encoded)
            rows.append(
                {
                    part: self._row(opening + next(encoded)[len(opening) :])
                    for part in _answers(record)
                }
            )
        return rows

    def _row(self, whole: list[int]) -> Tokens:
        ids = whole[: self.max_tokens]
        row = _masked(ids, len(ids) - 1)
        return Tokens(row.input_ids, row.labels, len(whole) if len(whole) > len(ids) else None)


@dataclass(frozen=True)
class Stepwise:
    """Process reward models: a step's class is read at its last token, its separator's.

    Attributes:
        separator: Written behind each step.
        max_tokens: Rows are cut there.
        max_completion_tokens: All steps together are cut there; None = never.
        is_last_only: Only the last step has its class.
    """

    separator: str
    max_tokens: int
    max_completion_tokens: int | None = None
    is_last_only: bool = False

    def rows(
        self, records: Sequence[PreferenceRecord], tokenizer: PreTrainedTokenizerBase
    ) -> list[Rows]:
        """One row a record; labels are classes, not ids."""
        texts = [self.separator]
        for record in records:
            assert isinstance(record, Steps)
            texts += [record.prompt, *record.completions]
        encoded = _encode(texts, tokenizer, is_bare=True)
        separator = next(encoded)
        rows: list[Rows] = []
        for record in records:
            assert isinstance(record, Steps)
            prompt = next(encoded)
            steps = [[*next(encoded), *separator] for _ in record.completions]
            rows.append({"steps": self._row(prompt, steps, record.labels, tokenizer)})
        return rows

    def _row(
        self,
        prompt: list[int],
        steps: Sequence[list[int]],
        classes: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
    ) -> Tokens:
        if tokenizer.bos_token_id is not None:
            prompt = [tokenizer.bos_token_id, *prompt]
        if self.is_last_only:
            classes = [IGNORE_INDEX] * (len(classes) - 1) + [classes[-1]]
        completion = list(chain.from_iterable(steps))
        labels = [
            label
            for step, value in zip(steps, classes, strict=True)
            for label in [IGNORE_INDEX] * (len(step) - 1) + [value]
        ]
        window = slice(self.max_completion_tokens)
        input_ids = [*prompt, *completion[window]][: self.max_tokens]
        kept = [*[IGNORE_INDEX] * len(prompt), *labels[window]][: self.max_tokens]
        num_uncut = len(prompt) + len(completion)
        return Tokens(input_ids, kept, num_uncut if num_uncut > len(input_ids) else None)

"""Records -> rows, a chunk at a time: what is done in the process itself or in workers, alike.

A chunk's rows and its part of the account depend on the chunk alone, so the number of workers
changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ft.data.classification.counts import count_labels
from ft.data.control_tokens import ControlTokens
from ft.data.judge import Excess, Judge
from ft.data.layout import Strategy, StrategyOptions
from ft.data.quick_tokenizer import quick
from ft.data.records import BrokenRecord, Chunk, Record
from ft.data.report import DatasetReport, Drop
from ft.data.segments import RecordError, Rendered, Tokens
from ft.data.store_builder import Rows
from ft.data.strategy import build_strategy
from ft.data.strategy_file import StrategySource
from ft.data.teacher import TeacherTokens, joined, no_teacher, teacher_tokens
from ft.data.tokenize import tokenize
from ft.data.weights import record_weight
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_NUM_TRIED_AGAIN = 3
"""Records of a chunk that a user's code is asked for twice."""


@dataclass(frozen=True)
class Recipe:
    """What decides the rows of a data set's records, the tokenizer aside.

    Attributes:
        spec: The entry of `datasets:`.
        source: The user's strategy file, if the entry names one.
        options: The keys beside `datasets:` that decide how records are laid out.
        excess: `excess_length_strategy`.
    """

    spec: DatasetSpec
    source: StrategySource | None
    options: StrategyOptions
    excess: Excess


@dataclass(frozen=True, slots=True)
class TokenizedChunk:
    """What became of a chunk.

    Attributes:
        rows: Its rows.
        report: Its part of the data set's account.
        sample: The fields of the first record that is kept.
    """

    rows: Rows
    report: DatasetReport
    sample: dict[str, Any] | None


class ChunkTokenizer:
    """Turns chunks of one data set into rows."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        strategy: Strategy | None = None,
    ) -> None:
        """Builds the strategy, unless it is there already; that runs the code of a user's file."""
        self._recipe = recipe
        self._tokenizer = quick(tokenizer)
        self._strategy = strategy or build_strategy(
            recipe.spec, recipe.source, tokenizer, recipe.options
        )
        self._end_ids = _end_ids(recipe.options.eot_tokens, tokenizer)
        self._control_tokens = ControlTokens(tokenizer)
        self._vocabulary_size = len(tokenizer)

    def run(self, chunk: Chunk) -> TokenizedChunk:
        """The rows of a chunk.

        Raises:
            UserError: A record is too long, and `excess_length_strategy` is raise; or its weight
                is no number from 0 up.
        """
        recipe = self._recipe
        judge = Judge(recipe.spec.path, recipe.options, recipe.excess, self._end_ids)
        records: list[Record] = []
        rendered: list[Rendered] = []
        weights: list[float] = []
        for raw in chunk.records():
            judge.report.num_read += 1
            if isinstance(raw, BrokenRecord):
                reason = f"broken line: {raw.reason}"
                judge.report.drop(Drop(reason, raw.origin, raw.detail))
                continue
            try:
                weight = record_weight(raw, recipe.spec.field_weight)
                made = self._strategy.render(raw.fields)
            except RecordError as error:
                judge.drop(raw, error.reason, error.detail)
            else:
                if not weight:
                    judge.drop(raw, "a weight of 0", "", is_consented=True)
                    continue
                records.append(raw)
                rendered.append(made)
                weights.append(weight)
                if token := self._control_tokens.first_in(raw.fields):
                    judge.report.note_control_token(token, raw.origin)
        tokens = tokenize(rendered, self._tokenizer)
        if recipe.source is not None:
            self._note_if_unsteady(records[:_NUM_TRIED_AGAIN], tokens, judge.report)
        if recipe.spec.logprobs_field is None:
            rows = judge.judge(records, tokens, weights if recipe.spec.field_weight else None)
        else:
            rows = self._judged_with_teacher(judge, records, tokens, weights)
        if recipe.options.labels is not None:
            judge.report.num_of_label = count_labels(rows.labels, recipe.options.labels.task)
        return TokenizedChunk(rows, judge.report, judge.sample)

    def _judged_with_teacher(
        self,
        judge: Judge,
        records: Sequence[Record],
        tokens: Sequence[Sequence[Tokens]],
        weights: Sequence[float],
    ) -> Rows:
        """The rows of records of which a teacher said something."""
        spec = self._recipe.spec
        assert spec.logprobs_field is not None
        kept: list[int] = []
        teachers: list[TeacherTokens] = []
        for number, (record, made) in enumerate(zip(records, tokens, strict=True)):
            try:
                teacher = teacher_tokens(
                    record.fields,
                    made,
                    spec.logprobs_field,
                    temperature=spec.temperature,
                    vocabulary_size=self._vocabulary_size,
                )
            except RecordError as error:
                judge.drop(record, error.reason, error.detail)
            else:
                kept.append(number)
                teachers.append(teacher)
        rows = judge.judge(
            [records[i] for i in kept], [tokens[i] for i in kept], [weights[i] for i in kept]
        )
        lengths = rows.lengths.tolist()
        parts = [each.cut(length) for each, length in zip(teachers, lengths, strict=True)]
        return replace(rows, teacher=joined([no_teacher(0), *parts]))

    def _note_if_unsteady(
        self, records: Sequence[Record], made: Sequence[Sequence[Tokens]], report: DatasetReport
    ) -> None:
        """Asks a user's code again: does it make the same of the same record?"""
        try:
            again = tokenize(
                [self._strategy.render(each.fields) for each in records], self._tokenizer
            )
        except RecordError:
            again = []
        for record, first, second in zip_longest(records, made[: len(records)], again):
            if list(first) != list(second or ()):
                report.first_unsteady = str(record.origin)
                return


def _end_ids(eot_tokens: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    vocabulary = tokenizer.get_vocab() if eot_tokens else {}
    return frozenset({tokenizer.eos_token_id, *map(vocabulary.get, eot_tokens)} - {None})

"""`type:` -> strategy: a built-in layout, a mapping, ids that are there already, or a user's file.

Built-in names win, unless the type is written as a path (`./alpaca.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.data import strategy_file
from ft.data.axolotl_shim import LayoutStrategy, PairStrategy, RecordSet, StrategyConfig
from ft.data.layout import Fields, Strategy, StrategyOptions
from ft.data.layouts import PretokenizedLayout, built_in, check_mapping, mapping_layout
from ft.data.segments import (
    Conversation,
    RecordError,
    Rendered,
    Segment,
    Separate,
    Tokens,
    Whole,
)
from ft.data.strategy_file import StrategySource
from ft.data.tokenize import check_tokens
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec, MappingLayout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


AllowCode = Callable[[str], bool]
"""Called with the sha256 of a user's strategy file: may it be run?"""


@dataclass(frozen=True)
class ResolvedStrategy:
    """A strategy, and the user's file that it comes from; None for those of ours."""

    strategy: Strategy
    source: StrategySource | None = None


def check_strategy(spec: DatasetSpec, base_dir: Path) -> None:
    """Finds what is wrong with `type:` without running anything or importing anything heavy.

    Args:
        spec: The entry of `datasets:`.
        base_dir: The YAML's folder.

    Raises:
        UserError: There is no such layout, file or function, or a format that can't be filled.
    """
    if isinstance(spec.type, MappingLayout):
        check_mapping(spec.type)
    elif (source := find_strategy_source(spec, base_dir)) is not None:
        _ = source.entry


def find_strategy_source(spec: DatasetSpec, base_dir: Path) -> StrategySource | None:
    """The user's file that `type:` names; None if it names a layout of ours.

    Raises:
        UserError: It names neither.
    """
    if not isinstance(spec.type, str):
        return None
    if built_in(spec.type) is not None and not strategy_file.is_file_name(spec.type):
        return None
    if spec.type.replace(":", ".").split(".")[0] == "sharegpt":
        raise UserError(
            Problem(
                f"type: {spec.type} is not supported",
                fix="use type: chat_template, which reads conversations of from and value as well",
            )
        )
    return strategy_file.find_source(spec.type, base_dir)


def resolve_strategy(
    spec: DatasetSpec,
    base_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    options: StrategyOptions,
    allow_code: AllowCode | None = None,
) -> ResolvedStrategy:
    """The strategy that `type:` asks for.

    Args:
        spec: The entry of `datasets:`.
        base_dir: The YAML's folder.
        tokenizer: The model's tokenizer.
        options: The keys beside `datasets:`.
        allow_code: Whether the user's file may be run; None allows it.

    Raises:
        UserError: There is none, or the user's file may not be run; or it fails, and the message
            is the file's own.
    """
    source = find_strategy_source(spec, base_dir)
    if source is not None and allow_code is not None and not allow_code(source.sha256):
        raise UserError(
            Problem(
                f"the strategy file was never trained with here (sha256 {source.sha256})",
                where=source.path,
                fix="read it, then allow it with --trust-remote-code",
            )
        )
    return ResolvedStrategy(build_strategy(spec, source, tokenizer, options), source)


def build_strategy(
    spec: DatasetSpec,
    source: StrategySource | None,
    tokenizer: PreTrainedTokenizerBase,
    options: StrategyOptions,
) -> Strategy:
    """The strategy of a data set; runs the code of `source` if there is one."""
    if source is not None:
        return _from_file(spec, source, tokenizer, options)
    if spec.type is None:
        return PretokenizedLayout(len(tokenizer))
    if isinstance(spec.type, MappingLayout):
        check_mapping(spec.type)
        return mapping_layout(spec.type, options, tokenizer.eos_token)
    layout = built_in(spec.type) if isinstance(spec.type, str) else None
    if layout is None:
        raise UserError(Problem(f"no prompt strategy {spec.type!r}"))
    return layout.build(spec, options, tokenizer)


@dataclass(frozen=True)
class FileStrategy:
    """A strategy of a user's file, called with care: what it raises costs one record.

    Attributes:
        path: The file.
        call: Record -> segments or tokens.
        vocabulary_size: Ids must stay below it.
        fields: Not known; they are found by trying.
    """

    path: str
    call: Callable[[dict[str, Any]], Any]
    vocabulary_size: int
    fields: None = None

    def render(self, record: Fields) -> Rendered:
        """What the file makes of the record, once it is known to be sound."""
        try:
            result = self.call(dict(record))
        except RecordError:
            raise
        except (Exception, SystemExit) as error:  # a user's file raises what it likes
            problem = strategy_file.describe_error(error, self.path)
            raise RecordError(
                f"strategy raised {type(error).__name__}", f"{problem.where}: {problem.what}"
            ) from error
        return self._check(result)

    def render_prompt(self, record: Fields) -> Rendered:
        """The record as it is; its response is blank."""
        return self.render(record)

    def _check(self, result: Any) -> Rendered:
        if isinstance(result, Separate):
            _check_segments(result.segments)
        if isinstance(result, Separate | Whole | Conversation):
            return result
        if isinstance(result, Mapping | Tokens):
            return self._tokens(result)
        if isinstance(result, Sequence) and not isinstance(result, str):
            return [self._tokens(row) for row in result]
        raise RecordError("unsound result", f"the strategy returned {type(result).__name__}")

    def _tokens(self, row: Any) -> Tokens:
        columns = (
            row if isinstance(row, Mapping) else {"input_ids": row.input_ids, "labels": row.labels}
        )
        if missing := {"input_ids", "labels"} - set(columns):
            raise RecordError("unsound result", f"the strategy returned no {min(missing)}")
        return check_tokens(columns["input_ids"], columns["labels"], self.vocabulary_size)


def _from_file(
    spec: DatasetSpec,
    source: StrategySource,
    tokenizer: PreTrainedTokenizerBase,
    options: StrategyOptions,
) -> FileStrategy:
    function = strategy_file.load(source)
    num_parameters = strategy_file.num_parameters(function)
    if num_parameters == 1:
        call = _segments_call(function, options.train_on_inputs)
        return FileStrategy(source.path, call, len(tokenizer))
    config = StrategyConfig(
        train_on_inputs=options.train_on_inputs,
        sequence_len=options.sequence_len,
        eot_tokens=list(options.eot_tokens) or None,
    )
    given = StrategyConfig(spec.model_dump(exclude_unset=True, exclude_none=True))
    arguments = (tokenizer, config, given)[: max(num_parameters, 2)]
    try:
        strategy = function(*arguments)
    except (Exception, SystemExit) as error:  # a user's file raises what it likes
        raise UserError(strategy_file.describe_error(error, source.path)) from error
    return FileStrategy(source.path, _axolotl_call(strategy, source), len(tokenizer))


def _segments_call(
    function: Callable[..., Any], are_inputs_trained: bool
) -> Callable[[dict[str, Any]], Separate]:
    """Our own kind of file: the function gives the segments themselves."""

    def call(record: dict[str, Any]) -> Separate:
        result = function(record)
        if not isinstance(result, Sequence) or isinstance(result, str):
            raise RecordError("unsound result", f"the strategy returned {type(result).__name__}")
        segments = tuple(result)
        _check_segments(segments)
        if are_inputs_trained:
            segments = tuple(replace(segment, is_trained=True) for segment in segments)
        return Separate(segments)

    return call


def _axolotl_call(strategy: Any, source: StrategySource) -> Callable[[dict[str, Any]], Any]:
    """An axolotl strategy; those that leave tokenization to us are tokenized in batches."""
    if isinstance(strategy, LayoutStrategy):
        return strategy.render
    if (wrap_dataset := getattr(strategy, "wrap_dataset", None)) is not None:
        return lambda record: list(wrap_dataset(RecordSet([record])))
    tokenize_prompt = getattr(strategy, "tokenize_prompt", None)
    if not callable(tokenize_prompt):
        raise UserError(
            Problem(
                f"{source.entry} returned {type(strategy).__name__}, which has no tokenize_prompt",
                where=source.path,
                fix="return a strategy; or define segments(record), which gives a list of Segment",
            )
        )
    if isinstance(strategy, PairStrategy) and strategy.renders_segments():
        tokenize_prompt = strategy.segments
    elif getattr(strategy, "supports_batched", False):
        tokenize_prompt = _one_by_one(tokenize_prompt)
    filter_rows = getattr(strategy, "filter_rows", None)
    return tokenize_prompt if filter_rows is None else _filtered(tokenize_prompt, filter_rows)


def _one_by_one(tokenize_prompt: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """What takes columns of records, called with one."""

    def call(record: dict[str, Any]) -> list[dict[str, Any]]:
        columns = tokenize_prompt({name: [value] for name, value in record.items()})
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    return call


def _filtered(
    tokenize_prompt: Callable[..., Any], filter_rows: Callable[..., Any]
) -> Callable[[dict[str, Any]], Any]:
    def call(record: dict[str, Any]) -> Any:
        if not filter_rows(record):
            raise RecordError("left out by the strategy's filter_rows")
        return tokenize_prompt(record)

    return call


def _check_segments(segments: Sequence[Any]) -> None:
    for segment in segments:
        if not isinstance(segment, Segment):
            raise RecordError("unsound result", f"{type(segment).__name__} is no Segment")
        if not isinstance(segment.text, str):
            raise RecordError(
                "unsound result", f"a segment's text is {type(segment.text).__name__}"
            )

"""Records -> strategy segments -> tokens and labels -> what a run trains on and is measured on."""

from ft.data.layout import LayoutFields, Strategy, StrategyOptions
from ft.data.prepare import PreparedData, prepare_data
from ft.data.prompt import PromptLayout
from ft.data.records import BrokenRecord, Origin, Record
from ft.data.report import DataReport, DatasetReport, Drop
from ft.data.segments import IGNORE_INDEX, RecordError, Segment, Separate, Tokens, Whole
from ft.data.sources import read_records
from ft.data.strategy import check_strategy, resolve_strategy
from ft.data.tokenize import split_response, tokenize
from ft.data.tokenized import Example, TokenizedSet

__all__ = [
    "IGNORE_INDEX",
    "BrokenRecord",
    "DataReport",
    "DatasetReport",
    "Drop",
    "Example",
    "LayoutFields",
    "Origin",
    "PreparedData",
    "PromptLayout",
    "Record",
    "RecordError",
    "Segment",
    "Separate",
    "Strategy",
    "StrategyOptions",
    "TokenizedSet",
    "Tokens",
    "Whole",
    "check_strategy",
    "prepare_data",
    "read_records",
    "resolve_strategy",
    "split_response",
    "tokenize",
]

"""Data that are read while the run trains: sets larger than the disk, in memory that stays flat.

    records  --windows.py-->  rows, a window at a time  --stream_feed.py-->  rows of each step

Before the first step the head of each data set is read, as a sample: it gives the prompt layouts,
and bad records are found before a model is loaded.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ft.data.classification.find import with_labels_found
from ft.data.feed import TrainingData
from ft.data.intake import CHUNK, Intake, Progress
from ft.data.mixture import mixture_of
from ft.data.obtain import TokenCache, note_unwritten_ends, obtained
from ft.data.prepare import (
    LazyTokenizer,
    PreparedData,
    obtaining_of,
    prepare_data,
    refuse_poor,
    split_up,
)
from ft.data.prompt import PromptLayout
from ft.data.report import DataReport
from ft.data.sources import identify_stream
from ft.data.store_builder import TokenStoreBuilder
from ft.data.strategy import AllowCode
from ft.data.stream_feed import StreamFeed
from ft.data.tokenized import TokenizedSet
from ft.data.windows import OnNews, Place, TokenStream
from ft.spec.runspec import DataSpec, TrainingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_training_data(  # noqa: PLR0913 - as prepare_data, and who is told of a stream
    spec: DataSpec,
    *,
    tokenizer: PreTrainedTokenizerBase | LazyTokenizer,
    seed: int,
    base_dir: Path,
    on_progress: Progress | None = None,
    allow_code: AllowCode | None = None,
    cache: TokenCache | None = None,
    is_strict: bool = True,
    on_news: OnNews | None = None,
) -> TrainingData:
    """A run's data, read whole or as a stream; arguments and errors as of `prepare_data`."""
    how = partial(prepare_stream, on_news=on_news) if spec.streaming else prepare_data
    return how(
        with_labels_found(spec, base_dir),
        tokenizer=tokenizer,
        seed=seed,
        base_dir=base_dir,
        on_progress=on_progress,
        allow_code=allow_code,
        cache=cache,
        is_strict=is_strict,
    )


def prepare_stream(  # noqa: PLR0913
    spec: DataSpec,
    *,
    tokenizer: PreTrainedTokenizerBase | LazyTokenizer,
    seed: int,
    base_dir: Path,
    on_progress: Progress | None = None,
    allow_code: AllowCode | None = None,
    cache: TokenCache | None = None,
    is_strict: bool = True,
    on_news: OnNews | None = None,
) -> PreparedStream:
    """Reads the heads of a run's data sets, and its held-out sets whole.

    Args:
        spec: The run's data section.
        tokenizer: The model's tokenizer.
        seed: Of the mixture; a stream is shuffled window by window.
        base_dir: The YAML's folder.
        on_progress: Called while held-out sets are tokenized.
        allow_code: May a user's strategy file be run?
        cache: Where the tokens of held-out sets are kept; those of the stream never are.
        is_strict: Refuse data of whose head too much is lost, or that trains no end token.
        on_news: Told when a pass over the data ends.

    Raises:
        UserError: Something is not there, or too many of the first records can't be used.
        MachineError: No space for the cache.
    """
    obtaining = obtaining_of(
        spec, tokenizer, base_dir, on_progress=on_progress, allow_code=allow_code, cache=cache
    )
    options = replace(obtaining.intake_options(), on_progress=None)
    intakes = [Intake(each, base_dir, options, streams=True) for each in spec.datasets]
    note_unwritten_ends(intakes, obtaining.layout.eot_tokens)
    blank = [intake.report.to_plain() for intake in intakes]
    builder = TokenStoreBuilder()
    for intake in intakes:
        for chunk in islice(intake.chunks(), 1):
            tokenized = intake.tokenizer.run(chunk)
            builder.append(tokenized.rows)
            intake.absorb(tokenized)
        intake.finish()
    merged = obtained(builder.build(), intakes)
    tests = obtaining.obtain(spec.test_datasets, is_heldout=True)
    if is_strict:
        refuse_poor((*merged.reports, *tests.reports), spec, obtaining)
    head = split_up(merged, tests, spec, seed=None)
    report = replace(head.report, is_head=True, notes=(*head.report.notes, *_notes(spec)))
    identities = [identify_stream(each, base_dir) for each in spec.datasets]
    mixture = mixture_of(spec, seed)
    window_size = spec.streaming_multipack_buffer_size
    size = CHUNK if mixture is None else max(min(CHUNK, window_size // _DRAWS_IN_WINDOW), 1)
    num_chunks = math.ceil(window_size / size)
    stream = TokenStream(
        intakes,
        options.tokenizer,
        Place(0, 0, 0, 0, blank),
        num_chunks,
        math.ceil(window_size / num_chunks),
        spec.max_drop,
        on_news or (lambda lines: None),
        spec.dataset_num_proc,
        mixture,
    )
    return PreparedStream(replace(head, report=report), tuple(identities), stream, spec)


_DRAWS_IN_WINDOW = 64
"""Chunks of interleaved sets in a window: so many draws by probability."""


def _notes(spec: DataSpec) -> Iterator[str]:
    yield "streaming: records are tokenized as they are read, and nothing is cached of them"
    if len(spec.datasets) > 1 and spec.mix_strategy == "concat":
        window = spec.streaming_multipack_buffer_size
        yield (
            "streaming: the data sets are read one behind the other, and shuffled within "
            f"{window:,} records; for a better mixture set mix_strategy: interleave_under"
        )


@dataclass(frozen=True, eq=False)
class PreparedStream:
    """What a run trains on, and how it begins.

    Attributes:
        head: The first records of each data set, in source order; all of the held-out ones.
        identities: What tells the content of each data set.
        stream: All records.
        spec: The run's data section.
    """

    head: PreparedData
    identities: tuple[str, ...]
    stream: TokenStream
    spec: DataSpec

    @property
    def layouts(self) -> tuple[PromptLayout, ...]:
        """Of each data set in whose head a record can be used."""
        return self.head.layouts

    @property
    def heldout(self) -> TokenizedSet | None:
        """Examples of `test_datasets:`."""
        return self.head.heldout

    @property
    def report(self) -> DataReport:
        """What became of the heads, and of the held-out records."""
        return self.head.report

    @property
    def entries(self) -> tuple[Path, ...]:
        """Where held-out tokens are kept."""
        return self.head.entries

    @property
    def in_order(self) -> tuple[TokenizedSet, ...]:
        """The rows that are known, those of one data set behind those of the other."""
        return self.head.in_order

    @property
    def samples(self) -> TokenizedSet:
        """The heads."""
        return self.head.train

    @property
    def num_train_records(self) -> None:
        """None: nobody knows."""

    def fingerprint(self) -> str:
        """sha256 of what tells the files, and of the heads' tokens."""
        parts = [self.head.fingerprint(), *self.identities]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def feed(self, training: TrainingSpec, *, sequence_len: int, num_processes: int) -> StreamFeed:
        """The rows of each step; of several processes, each reads the stream for itself."""
        stream = self.stream.shared_by(num_processes)
        return StreamFeed(
            stream,
            training,
            sequence_len=sequence_len,
            num_processes=num_processes,
            is_shuffled=self.spec.shuffle_merged_datasets,
        )

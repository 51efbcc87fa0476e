"""Chunks tokenized by several processes, given back in order.

    reader (this process)  --chunks of raw lines-->  worker: parse, lay out, tokenize, judge
                           <--arrays, in order----

Python's own part of the work is as large as the tokenizer's, so threads don't help. Each worker
holds a copy of the tokenizer; only so many chunks are on their way that memory stays flat.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from ft.data.chunk_tokenizer import ChunkTokenizer, Recipe, TokenizedChunk
from ft.data.records import Chunk
from ft.runtime.errors import FtError, MachineError, Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Job = tuple[int, Chunk]
"""The number of the data set, and some of its records."""

SMALL = 20_000
"""So many records are tokenized in less time than it takes to start workers."""

CHUNKS_AHEAD = 3
"""Chunks on their way, a worker: one at work and the next ones waiting."""

MAX_WORKERS = 16
"""Unless the YAML asks for more: each holds a tokenizer of its own."""


def tokenize_jobs(
    jobs: Iterable[Job],
    tokenizers: Sequence[ChunkTokenizer],
    *,
    recipes: Sequence[Recipe],
    tokenizer: PreTrainedTokenizerBase,
    num_workers: int | None,
) -> Generator[tuple[int, TokenizedChunk], None, None]:
    """What becomes of each chunk, in the order of the jobs; closing it ends the workers.

    Args:
        jobs: The chunks of all data sets.
        tokenizers: One a data set, for few records.
        recipes: One a data set, from which workers make their own.
        tokenizer: The model's tokenizer.
        num_workers: Processes; None = as many as there are cores, up to `MAX_WORKERS`.

    Raises:
        UserError: A record is too long, and `excess_length_strategy` is raise.
        MachineError: A worker died.
    """
    num_workers = num_workers or default_workers()
    jobs = iter(jobs)
    first = _first_jobs(jobs) if num_workers > 1 else []
    if sum(len(chunk) for _, chunk in first) < SMALL:
        for number, chunk in chain(first, jobs):
            yield number, tokenizers[number].run(chunk)
        return
    yield from _in_workers(chain(first, jobs), recipes, tokenizer, num_workers)


def default_workers() -> int:
    """As many as there are cores, up to `MAX_WORKERS`."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(num_cores, MAX_WORKERS)


def _first_jobs(jobs: Iterator[Job]) -> list[Job]:
    """Enough of them to know whether there are many; none is decoded yet."""
    first: list[Job] = []
    num_records = 0
    for job in jobs:
        first.append(job)
        num_records += len(job[1])
        if num_records >= SMALL:
            break
    return first


def _in_workers(
    jobs: Iterable[Job],
    recipes: Sequence[Recipe],
    tokenizer: PreTrainedTokenizerBase,
    num_workers: int,
) -> Iterator[tuple[int, TokenizedChunk]]:
    # Spawned, not forked: this process may have threads and a GPU.
    pool = ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(tokenizer, tuple(recipes)),
    )
    on_their_way: deque[tuple[int, Future[TokenizedChunk | _Refusal]]] = deque()
    try:
        for number, chunk in jobs:
            with _interrupts_held():  # a worker started here never sees Ctrl-C: we end it
                on_their_way.append((number, pool.submit(_work, number, chunk)))
            if len(on_their_way) >= CHUNKS_AHEAD * num_workers:
                yield _next(on_their_way)
        while on_their_way:
            yield _next(on_their_way)
    except BrokenProcessPool:
        raise _worker_died() from None
    finally:
        pool.shutdown(cancel_futures=True)


def _next(
    on_their_way: deque[tuple[int, Future[TokenizedChunk | _Refusal]]],
) -> tuple[int, TokenizedChunk]:
    number, future = on_their_way.popleft()
    result = future.result()
    if isinstance(result, _Refusal):
        raise UserError(*result.problems)
    return number, result


def _worker_died() -> MachineError:
    return MachineError(
        Problem(
            "a process that tokenizes records ended unexpectedly; "
            "most often the machine has run out of memory",
            fix="use fewer of them: dataset_num_proc: 1 tokenizes in ft's own process",
        )
    )


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits; a process that is started meanwhile inherits that, and never gets it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the worker ----------------------------------------------------------------------------


class _Refusal:
    """An error for the user: it crosses to the other process as plain problems."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems


_tokenizers: list[ChunkTokenizer] = []
"""Of this worker, one a data set."""


def _begin(tokenizer: PreTrainedTokenizerBase, recipes: Sequence[Recipe]) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other cores have workers of their own
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _tokenizers[:] = [ChunkTokenizer(recipe, tokenizer) for recipe in recipes]
    gc.freeze()  # what is here now stays: looking through it again and again is a third of our work


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # killed, or it would have ended us


def _work(number: int, chunk: Chunk) -> TokenizedChunk | _Refusal:
    try:
        return _tokenizers[number].run(chunk)
    except FtError as error:
        return _Refusal(error.problems)

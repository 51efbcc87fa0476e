"""A run's data: every data set read, laid out, tokenized, shuffled and split, and accounted for.

The order is axolotl's: read and lay out in order, shuffle all rows, leave out those that can't be
used, hold out the tail.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ft.data.feed import StoredFeed
from ft.data.intake import Progress
from ft.data.layout import StrategyOptions
from ft.data.mixture import Mixture, describe_mixture, mixed, mixture_of
from ft.data.obtain import Obtained, Obtaining, TokenCache
from ft.data.prompt import PromptLayout
from ft.data.report import TOO_LONG, DataReport, DatasetReport, DropTally, count, count_drops
from ft.data.steps import plan_steps
from ft.data.strategy import AllowCode, build_strategy
from ft.data.template_check import lacks_ends, untrained_end
from ft.data.tokenized import TokenizedSet, TokenStore
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DataSpec, TrainingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_VAL_SET_SIZE = "a value up to 1 is a share of the rows, 2 or more is their number"


@dataclass(frozen=True)
class PreparedData:
    """What a run trains on.

    Attributes:
        train: Examples to train on.
        heldout: Examples to measure on, if any are held out.
        layouts: The prompt layout of each of `datasets:`, each once.
        report: What became of the records.
        entries: Folders of the tokenized cache in which they are kept.
        in_order: The same examples as they stand in the sources: those of `datasets:`, those of
            `test_datasets:`.
    """

    train: TokenizedSet
    heldout: TokenizedSet | None
    layouts: tuple[PromptLayout, ...]
    report: DataReport
    entries: tuple[Path, ...] = ()
    in_order: tuple[TokenizedSet, ...] = ()

    @property
    def samples(self) -> TokenizedSet:
        """What is trained on."""
        return self.train

    @property
    def num_train_records(self) -> int:
        """Rows to train on."""
        return len(self.train)

    def fingerprint(self) -> str:
        """sha256: data of equal fingerprints train alike."""
        return self.train.fingerprint()

    def feed(self, training: TrainingSpec, *, sequence_len: int, num_processes: int) -> StoredFeed:
        """The rows of each step, as the spec groups and orders them."""
        plan = plan_steps(
            self.train.lengths, training, sequence_len=sequence_len, num_processes=num_processes
        )
        return StoredFeed(self.train, plan)


@dataclass(frozen=True)
class LazyTokenizer:
    """A tokenizer that is loaded only if there is something to tokenize."""

    load: Callable[[], PreTrainedTokenizerBase]


def prepare_data(  # noqa: PLR0913 - an argument for each thing that a caller brings
    spec: DataSpec,
    *,
    tokenizer: PreTrainedTokenizerBase | LazyTokenizer,
    seed: int,
    base_dir: Path,
    on_progress: Progress | None = None,
    allow_code: AllowCode | None = None,
    cache: TokenCache | None = None,
    is_strict: bool = True,
) -> PreparedData:
    """Reads and tokenizes a run's data sets.

    Args:
        spec: The run's data section.
        tokenizer: The model's tokenizer.
        seed: Of the shuffle.
        base_dir: The YAML's folder: where files are that the working directory lacks.
        on_progress: Called with what is done, how many records are through, and of how many.
        allow_code: Called with the sha256 of a user's strategy file before it is run: may it be?
            None allows all.
        cache: Where tokens are kept, and found again; None = nowhere.
        is_strict: Refuse data of which too much is lost, or that trains no end token.

    Raises:
        UserError: Files, layouts or splits are not there; or code may not be run; or more records
            than `max_drop` allows can't be used; or a chat template leaves the ends of turns
            untrained, and nobody asked for that; or no records are left to train on.
        MachineError: No space for the cache, or a worker died.
    """
    _check_heldout(spec)
    obtaining = obtaining_of(
        spec, tokenizer, base_dir, on_progress=on_progress, allow_code=allow_code, cache=cache
    )
    merged = obtaining.obtain(spec.datasets, is_heldout=False)
    tests = obtaining.obtain(spec.test_datasets, is_heldout=True)
    if is_strict:
        refuse_poor((*merged.reports, *tests.reports), spec, obtaining)
    order_seed = seed if spec.shuffle_merged_datasets else None
    return split_up(merged, tests, spec, seed=order_seed, mixture=mixture_of(spec, seed))


def obtaining_of(
    spec: DataSpec,
    tokenizer: PreTrainedTokenizerBase | LazyTokenizer,
    base_dir: Path,
    *,
    on_progress: Progress | None,
    allow_code: AllowCode | None,
    cache: TokenCache | None,
) -> Obtaining:
    """The way to the tokens of a run's data sets; arguments as of `prepare_data`."""
    return Obtaining(
        tokenizer.load if isinstance(tokenizer, LazyTokenizer) else lambda: tokenizer,
        base_dir,
        StrategyOptions.of(spec),
        spec.excess_length_strategy,
        spec.dataset_num_proc,
        on_progress,
        allow_code,
        cache,
    )


def split_up(
    merged: Obtained,
    tests: Obtained,
    spec: DataSpec,
    *,
    seed: int | None,
    mixture: Mixture | None = None,
) -> PreparedData:
    """What is trained on and what is held out of the tokens that were obtained.

    Args:
        merged: Of `datasets:`.
        tests: Of `test_datasets:`.
        spec: The run's data section.
        seed: Of the shuffle; None = source order.
        mixture: How what is trained on is interleaved, once the held-out rows are taken away.

    Raises:
        UserError: as `prepare_data`.
    """
    reports = (*merged.reports, *tests.reports)
    usable = usable_rows(merged.store, seed)
    if spec.test_datasets:
        train, heldout = usable, usable_rows(tests.store, None)
    else:
        num_train = max(len(usable) - heldout_size(len(usable), spec.val_set_size), 0)
        train, heldout = usable[:num_train], usable[num_train:]
    _check_sizes(train, heldout, reports, spec)
    notes: tuple[str, ...] = ()
    if mixture is not None:
        train, sizes, counts = mixed(train, merged.num_rows_of, mixture)
        names = [entry.path for entry in spec.datasets]
        notes = (describe_mixture(names, sizes, counts, mixture),)
    return PreparedData(
        train,
        heldout if len(heldout) else None,
        _each_once(merged.layouts),
        _report(merged, tests, len(train), len(heldout), notes),
        tuple(each.entry for each in (merged, tests) if each.entry is not None),
        tuple(usable_rows(each.store, None) for each in (merged, tests)),
    )


def refuse_poor(reports: Sequence[DatasetReport], spec: DataSpec, obtaining: Obtaining) -> None:
    """Refuses data that is better not trained on.

    Args:
        reports: The account of each data set, those of `test_datasets:` last.
        spec: The run's data section.
        obtaining: Has the tokenizer, which is loaded only if it is needed.

    Raises:
        UserError: More records than `max_drop` allows can't be used, or a chat template leaves the
            ends of turns untrained, and nobody asked for that.
    """
    found = [drops_problem(reports, spec.max_drop)]
    for entry, report in zip((*spec.datasets, *spec.test_datasets), reports, strict=True):
        if not spec.eot_tokens and lacks_ends(entry, report):
            tokenizer = obtaining.load_tokenizer()  # only now: it may not have been needed yet
            layout = build_strategy(entry, None, tokenizer, obtaining.layout)
            found.append(untrained_end(entry, report, layout, spec.eot_tokens))
    if problems := [problem for problem in found if problem is not None]:
        raise UserError(*problems)


def _report(
    merged: Obtained, tests: Obtained, num_train: int, num_heldout: int, notes: Sequence[str]
) -> DataReport:
    return DataReport(
        (*merged.reports, *tests.reports),
        num_train,
        num_heldout,
        is_from_cache=merged.is_from_cache and (tests.is_from_cache or not tests.reports),
        notes=tuple(dict.fromkeys((*merged.notes, *tests.notes, *notes))),
    )


def _each_once(layouts: Sequence[PromptLayout | None]) -> tuple[PromptLayout, ...]:
    """The layouts that differ in what prompt.json would hold of them."""
    unique = {json.dumps(each.to_json()): each for each in reversed(layouts) if each is not None}
    return tuple(reversed(unique.values()))


def shuffled_order(num_rows: int, seed: int | None) -> np.typing.NDArray[np.int64]:
    """The order that `datasets.Dataset.shuffle(seed)` gives; source order without a seed."""
    if seed is None:
        return np.arange(num_rows)
    return np.random.default_rng(seed).permutation(num_rows)


def heldout_size(num_rows: int, val_set_size: float) -> int:
    """Rows to hold out: a share of all, rounded up, or a number if over 1."""
    return int(val_set_size) if val_set_size > 1 else math.ceil(val_set_size * num_rows)


def usable_rows(store: TokenStore, seed: int | None) -> TokenizedSet:
    """The rows that hold tokens; the others have a place in the shuffle, as axolotl's do."""
    order = shuffled_order(len(store), seed)
    return TokenizedSet(store, order[store.lengths[order] > 0])


def _check_heldout(spec: DataSpec) -> None:
    if spec.val_set_size > 1 and spec.val_set_size % 1:
        raise UserError(
            Problem(
                f"val_set_size {spec.val_set_size:g} is no whole number of rows",
                fix=f"write {math.ceil(spec.val_set_size)}; {_VAL_SET_SIZE}",
            )
        )
    if spec.test_datasets and spec.val_set_size:
        raise UserError(
            Problem(
                f"both test_datasets and val_set_size ({spec.val_set_size:g}) hold out records",
                fix="set val_set_size: 0, or take test_datasets away",
            )
        )


def drops_problem(reports: Sequence[DatasetReport], max_drop: float) -> Problem | None:
    """What to say if more records are lost than may be; None if it is less.

    Args:
        reports: The account of each data set.
        max_drop: Share of all records that may be lost without the user's consent.
    """
    num_read = sum(report.num_read for report in reports)
    num_lost = sum(report.num_dropped_silently for report in reports)
    if not num_read or num_lost / num_read <= max_drop:
        return None
    share = num_lost / num_read
    drops = {
        reason: tally for reason, tally in count_drops(reports).items() if not tally.is_consented
    }
    lines = [line for reason, tally in drops.items() for line in _render_tally(reason, tally)]
    return Problem(
        f"{num_lost:,} of {count(num_read, 'record')} ({share:.1%}) can't be used; "
        f"max_drop allows {max_drop:.1%}",
        fix="\n".join([*lines, *_remedies(drops, reports, share)]),
    )


def check_drops(reports: Sequence[DatasetReport], max_drop: float) -> None:
    """Refuses data of which too much is lost; see `drops_problem`."""
    if problem := drops_problem(reports, max_drop):
        raise UserError(problem)


def _render_tally(reason: str, tally: DropTally) -> list[str]:
    lines = [f"{tally.count:,} {reason}"]
    for drop in tally.examples:
        lines.append(f"  {drop}")
        if drop.record:
            lines.append(f"    {drop.record}")
    return lines


def _remedies(
    drops: dict[str, DropTally], reports: Sequence[DatasetReport], share: float
) -> list[str]:
    remedies = []
    if TOO_LONG in drops:
        longest = max(report.longest for report in reports)
        remedies.append(
            f"fix: raise sequence_len to {longest}, "
            "or set excess_length_strategy: drop (or truncate)"
        )
    if set(drops) - {TOO_LONG}:
        remedies.append("fix: mend the records, or choose the type: that fits their fields")
    if share < 1:
        allowed = math.ceil(share * 1000) / 1000
        remedies.append(f"to train without them all the same: max_drop: {allowed:g}")
    return remedies


def _check_sizes(
    train: TokenizedSet, heldout: TokenizedSet, reports: Sequence[DatasetReport], spec: DataSpec
) -> None:
    account = [line for report in reports for line in report.render()]
    if spec.test_datasets and not len(heldout):
        raise UserError(
            Problem("no records in test_datasets to measure on", fix="\n".join(account))
        )
    if len(train):
        return
    num_usable = len(train) + (0 if spec.test_datasets else len(heldout))
    if num_usable:
        what = (
            f"val_set_size {spec.val_set_size:g} holds out all of the "
            f"{count(num_usable, 'row')} that can be used: none are left to train on"
        )
        raise UserError(Problem(what, fix=f"lower val_set_size: {_VAL_SET_SIZE}"))
    raise UserError(nothing_to_train_on(reports))


def nothing_to_train_on(reports: Sequence[DatasetReport]) -> Problem:
    """What to say of data of which nothing is left."""
    account = [line for report in reports for line in report.render()]
    return Problem("no records to train on", fix="\n".join(account))

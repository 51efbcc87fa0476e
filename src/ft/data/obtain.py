"""The tokens of data sets: from the cache if they are there, else taken in, and kept there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.data.cache import DamagedEntryError, EntryCache, UnwritableCacheError, default_folder
from ft.data.cache_key import SetIdentity, cache_key
from ft.data.chat import ChatLayout
from ft.data.intake import Intake, IntakeOptions, Progress, take_in
from ft.data.judge import Excess
from ft.data.layout import StrategyOptions
from ft.data.prompt import PromptLayout
from ft.data.report import DatasetReport
from ft.data.sources import identify_source
from ft.data.store_builder import TokenStoreBuilder, open_store
from ft.data.strategy import AllowCode, find_strategy_source
from ft.data.template_check import unwritten_ends
from ft.data.tokenized import TokenStore
from ft.runtime.errors import FtError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ACCOUNT = "account.json"


@dataclass(frozen=True)
class TokenCache:
    """Where tokens are kept, and whose they are.

    Attributes:
        entries: The cache.
        tokenizer_identity: Changes with anything that changes the tokenizer.
    """

    entries: EntryCache
    tokenizer_identity: str


def token_cache(
    folder: str | None, tokenizer_identity: str | None, *, is_thorough: bool = True
) -> TokenCache | None:
    """The cache that a config asks for; None if it can't be told which tokenizer it is.

    Args:
        folder: `dataset_prepared_path`; None = the user's own.
        tokenizer_identity: Changes with anything that changes the tokenizer.
        is_thorough: Tokens that are found are read to the last byte, to know that they are sound;
            else files that were never written to since are taken at their word.
    """
    if tokenizer_identity is None:
        return None
    path = Path(folder).expanduser() if folder else default_folder()
    entries = EntryCache(path.absolute(), is_thorough=is_thorough)
    return TokenCache(entries, tokenizer_identity)


@dataclass(frozen=True)
class Obtained:
    """Tokens of some data sets, and their accounts.

    Attributes:
        store: The rows, in the order of the data sets and their records.
        reports: One a data set.
        layouts: The prompt layout of each data set; None where no record could be used.
        is_from_cache: They were there already.
        entry: Where they are kept, if they are.
        notes: What the user should know of the cache.
        num_rows_of: Rows of each data set in the store, those that can't be used included.
    """

    store: TokenStore
    reports: tuple[DatasetReport, ...]
    layouts: tuple[PromptLayout | None, ...]
    is_from_cache: bool = False
    entry: Path | None = None
    notes: tuple[str, ...] = ()
    num_rows_of: tuple[int, ...] = ()


@dataclass(frozen=True)
class Obtaining:
    """What holds for all data sets of a run.

    Attributes:
        load_tokenizer: Gives the model's tokenizer; not called if everything is in the cache.
        base_dir: The YAML's folder.
        layout: The keys beside `datasets:` that decide how records are laid out.
        excess: `excess_length_strategy`.
        num_workers: Processes that tokenize; None = as many as there are cores.
        on_progress: Called with what is done, how many records are through, and of how many.
        allow_code: Whether a user's strategy file may be run; None allows all.
        cache: Where tokens are kept; None = nowhere.
    """

    load_tokenizer: Callable[[], PreTrainedTokenizerBase]
    base_dir: Path
    layout: StrategyOptions
    excess: Excess
    num_workers: int | None = None
    on_progress: Progress | None = None
    allow_code: AllowCode | None = None
    cache: TokenCache | None = None

    def obtain(self, specs: Sequence[DatasetSpec], *, is_heldout: bool) -> Obtained:
        """The tokens of some data sets.

        Raises:
            UserError: Files, layouts or splits are not there, or code may not be run.
            MachineError: The disk is full, or a worker died.
        """
        if self.cache is None or not specs:
            return self._take_in(specs, is_heldout, None)
        sets = [self._identify(spec, is_heldout) for spec in specs]
        key = cache_key(sets, self.cache.tokenizer_identity, self.layout, self.excess)
        entries = self.cache.entries
        found, damage = _read(entries, key, sets)
        if found is not None:
            return found
        notes = [f"the tokenized cache was damaged, so it is made anew: {damage}"] if damage else []
        try:
            with entries.making(key, self._tell_waiting):
                found, _ = _read(entries, key, sets)  # another process may have made it meanwhile
                made = found or self._make(entries, key, specs, sets)
        except UnwritableCacheError as error:
            notes.append(f"nothing is cached: {entries.folder} can't be written ({error})")
            made = self._take_in(specs, is_heldout, None)
        return replace(made, notes=tuple(notes))

    def _identify(self, spec: DatasetSpec, is_heldout: bool) -> SetIdentity:
        return SetIdentity(
            spec,
            identify_source(spec, self.base_dir),
            find_strategy_source(spec, self.base_dir),
            is_heldout,
        )

    def _make(
        self,
        entries: EntryCache,
        key: str,
        specs: Sequence[DatasetSpec],
        sets: Sequence[SetIdentity],
    ) -> Obtained:
        with entries.filling(key) as folder:
            made = self._take_in(specs, sets[0].is_heldout, folder)
            names = [list(each.names) for each in sets]
            (folder / _ACCOUNT).write_text(json.dumps(_account(made, names)), encoding="utf-8")
        return replace(made, entry=entries.folder / key)

    def _take_in(
        self, specs: Sequence[DatasetSpec], is_heldout: bool, folder: Path | None
    ) -> Obtained:
        builder = TokenStoreBuilder(folder)
        try:
            intakes, num_rows_of = self._intakes(specs, is_heldout, builder)
            store = builder.build()
        finally:
            if folder is not None:
                builder.close()
        return replace(obtained(store, intakes), num_rows_of=tuple(num_rows_of))

    def _intakes(
        self, specs: Sequence[DatasetSpec], is_heldout: bool, builder: TokenStoreBuilder
    ) -> tuple[list[Intake], list[int]]:
        if not specs:
            return [], []
        options = self.intake_options()
        intakes = [Intake(each, self.base_dir, options, is_heldout=is_heldout) for each in specs]
        if not is_heldout:
            note_unwritten_ends(intakes, self.layout.eot_tokens)
        return intakes, take_in(intakes, options, builder)

    def intake_options(self) -> IntakeOptions:
        """What each data set is taken in by; loads the tokenizer."""
        return IntakeOptions(
            self.load_tokenizer(),
            self.layout,
            self.excess,
            self.num_workers,
            self.on_progress,
            self.allow_code,
        )

    def _tell_waiting(self) -> None:
        if self.on_progress is not None:
            self.on_progress("waiting for another run that tokenizes the same data", 0, None)


def note_unwritten_ends(intakes: Sequence[Intake], eot_tokens: Sequence[str]) -> None:
    """Notes the end tokens of which nothing comes, with the first conversations."""
    unwritten = unwritten_ends([intake.strategy for intake in intakes], eot_tokens)
    if unwritten:
        names = ", ".join(map(repr, unwritten))
        note = f"eot_tokens: no chat template here writes {names}, so nothing comes of it"
        chat = next(each for each in intakes if isinstance(each.strategy, ChatLayout))
        chat.report.notes.append(note)


def obtained(store: TokenStore, intakes: Sequence[Intake]) -> Obtained:
    """Rows with the accounts of those that took them in."""
    return Obtained(
        store,
        tuple(intake.report for intake in intakes),
        tuple(intake.layout for intake in intakes),
    )


def _account(made: Obtained, names: list[list[str]]) -> dict[str, Any]:
    """What is kept beside the rows."""
    return {
        "names": names,
        "reports": [report.to_plain() for report in made.reports],
        "layouts": [None if layout is None else layout.to_json() for layout in made.layouts],
        "sources": made.store.sources,
        "digest": made.store.digest,
        "num_rows_of": made.num_rows_of,
    }


def _read(
    entries: EntryCache, key: str, sets: Sequence[SetIdentity]
) -> tuple[Obtained | None, str]:
    """The entry if there is a sound one, and else what is wrong with it."""
    try:
        folder = entries.find(key)
        if folder is None:
            return None, ""
        account = json.loads((folder / _ACCOUNT).read_text(encoding="utf-8"))
        return _obtained(folder, account, sets), ""
    except (DamagedEntryError, FtError, OSError, ValueError, KeyError, TypeError) as error:
        return None, str(error)


def _obtained(folder: Path, account: Mapping[str, Any], sets: Sequence[SetIdentity]) -> Obtained:
    names = [name for each in sets for name in each.names]
    before = [name for names_of in account["names"] for name in names_of]
    account = _renamed(dict(account), dict(zip(before, names, strict=True)))
    sources = [(dataset, file) for dataset, file in account["sources"]]
    return Obtained(
        open_store(folder, sources, account["digest"]),
        tuple(DatasetReport.from_plain(report) for report in account["reports"]),
        tuple(_layout(*pair) for pair in zip(account["layouts"], sets, strict=True)),
        is_from_cache=True,
        entry=folder,
        num_rows_of=tuple(account["num_rows_of"]),
    )


def _layout(plain: Mapping[str, Any] | None, of: SetIdentity) -> PromptLayout | None:
    """The layout as it was kept; code is that of the file beside the YAML, never the cache's."""
    if plain is None:
        return None
    layout = PromptLayout.from_json(plain, lambda sha256: True)
    return replace(layout, source=of.source, is_trusted=True)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """JSON in which files that were moved since are called what they are called now."""
    moved = {old: new for old, new in names.items() if old != new}
    if not moved:
        return value
    if isinstance(value, str):
        for old in sorted(moved, key=len, reverse=True):
            if old in value:
                return value.replace(old, moved[old])
        return value
    if isinstance(value, dict):
        return {key: _renamed(each, moved) for key, each in value.items()}
    return [_renamed(each, moved) for each in value] if isinstance(value, list) else value

"""`ft preview`: the data of a config as the model will see it, without the model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from ft.cli.output import say, write_as_it_is
from ft.data.sources import find_local
from ft.data.strategy import find_strategy_source
from ft.runtime import Problem, UserError
from ft.runtime.durable import staged_file, write_text
from ft.spec import LoadedSpec
from ft.train.claim import located_spec

if TYPE_CHECKING:
    from ft.data.intake import Progress
    from ft.data.preview import DataPreview


@dataclass(frozen=True)
class PreviewOptions:
    """What is wanted of a preview.

    Attributes:
        num_records: Records to show of each data set.
        shows_ids: Each token's id, too.
        html: Where the same goes as a page.
        dump: Where every row goes as a JSON line.
    """

    num_records: int
    shows_ids: bool = False
    html: Path | None = None
    dump: Path | None = None


def show_preview(loaded: LoadedSpec, options: PreviewOptions) -> None:
    """Shows, and writes, what was asked for.

    Raises:
        UserError: A file can't be written, or something is not there; or, when all is shown and
            written, that `ft train` would refuse this data.
    """
    _check_targets(loaded, options)
    tokenizer = _load_tokenizer(loaded)
    from ft.cli.preview_text import Screen, render_preview

    if options.dump is not None:
        with staged_file(options.dump) as file:
            file.writelines(_dumped(loaded, tokenizer))
    with _progress() as on_progress:
        preview = _previewed(loaded, tokenizer, options.num_records, on_progress)
    for line in render_preview(preview, Screen.of_output(), shows_ids=options.shows_ids):
        write_as_it_is(line)  # colored here, and cleaned part by part
    if options.html is not None:
        from ft.cli.preview_page import page

        write_text(options.html, page(preview, loaded.path.name, shows_ids=options.shows_ids))
    for written in filter(None, (options.html, options.dump)):
        say(f"written to {written}")
    if preview.problems:
        raise UserError(*preview.problems)


def _previewed(
    loaded: LoadedSpec, tokenizer: Any, num_records: int, on_progress: Progress | None
) -> DataPreview:
    spec, folder = loaded.spec, loaded.path.parent
    if (objective := spec.preference.objective) is not None:
        from ft.data.preference import preview_preferences

        return preview_preferences(
            objective, spec.data, tokenizer=tokenizer, base_dir=folder,
            num_records=num_records, on_progress=on_progress,
        )  # fmt: skip
    from ft.data.obtain import token_cache
    from ft.data.preview import preview_data
    from ft.model.tokenizer_identity import tokenizer_identity

    identity = tokenizer_identity(located_spec(loaded).model)
    cache = token_cache(spec.data.dataset_prepared_path, identity, is_thorough=False)
    return preview_data(
        spec.data, spec.training, tokenizer=tokenizer, base_dir=folder,
        num_records=num_records, on_progress=on_progress, cache=cache,
    )  # fmt: skip


def _dumped(loaded: LoadedSpec, tokenizer: Any) -> Iterator[str]:
    spec, folder = loaded.spec, loaded.path.parent
    if (objective := spec.preference.objective) is not None:
        from ft.data.preference import dump_preferences

        return dump_preferences(objective, spec.data, base_dir=folder, tokenizer=tokenizer)
    from ft.data.source_rows import dump_lines

    return dump_lines(spec.data, base_dir=folder, tokenizer=tokenizer)


def _check_targets(loaded: LoadedSpec, options: PreviewOptions) -> None:
    """Before any work: can the files be written, and would they overwrite what is read?"""
    entries = (*loaded.spec.data.datasets, *loaded.spec.data.test_datasets)
    found = [find_local(entry.path, loaded.path.parent) for entry in entries]
    taken = {path.resolve() for path in (loaded.path, *found) if path is not None}
    for option, path in (("--html", options.html), ("--dump", options.dump)):
        if path is None:
            continue
        if fault := _fault_of_target(path, taken):
            raise UserError(Problem(fault, option, fix="name another file"))
        taken.add(path.resolve())


def _fault_of_target(path: Path, taken: set[Path]) -> str:
    folder = path.absolute().parent
    if path.resolve() in taken:
        return f"{path} would be overwritten: this command reads or writes it already"
    if path.is_dir():
        return f"{path} is a folder"
    if not folder.is_dir():
        return f"there is no folder {folder}"
    return "" if os.access(folder, os.W_OK) else f"{folder} can't be written to"


def _load_tokenizer(loaded: LoadedSpec) -> Any:
    """The tokenizer that the run would train with."""
    has_own_code = loaded.spec.preference.objective is None and any(
        find_strategy_source(entry, loaded.path.parent) is not None
        for entry in (*loaded.spec.data.datasets, *loaded.spec.data.test_datasets)
    )
    with _torch_hidden(unless=has_own_code):
        from ft.model.tokenizer import load_tokenizer

        return load_tokenizer(
            located_spec(loaded).model, writes=not loaded.spec.data.is_classification
        ).tokenizer


@contextmanager
def _torch_hidden(*, unless: bool) -> Iterator[None]:
    """Lets transformers believe that there is no torch, which would take longer than all the rest.

    Tokenizers are the same without it. A user's strategy file might not be: then it stays.
    """
    if unless or "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way: not to be found
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """How far it is, on standard error, while somebody is looking."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield None
        return
    with console.status("reading") as status:

        def show(phase: str, done: int, total: int | None) -> None:
            of = f"/{total:,}" if total else ""
            status.update(Text(f"{phase} {done:,}{of}"))

        yield show

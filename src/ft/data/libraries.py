"""Records that come through the `datasets` library: other formats, folders, the hub.

Its errors are turned into what a user can do about them; its import is heavy, so it happens here,
inside the functions.
"""

from __future__ import annotations

import logging
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft.data.records import (
    FORMATS,
    Chunk,
    Origin,
    RawRecord,
    Record,
    RecordSource,
    Split,
    choose_split,
    file_format,
    no_such_split,
    single_file_note,
)
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

_SPLIT = "data"
"""The split's name for the library where files have none of their own."""

_METADATA = {"dataset_info.json", "dataset_infos.json"}
"""Files that describe a folder's records, and hold none."""

_NUM_NAMED = 5
_UNKNOWN_SPLIT = re.compile(r'Unknown split "(?P<name>.+?)"\. Should be one of \[(?P<there>.*?)\]')


def read_files(
    spec: DatasetSpec, files: dict[str, tuple[Path, ...]], *, streams: bool = False
) -> RecordSource:
    """Single files of this machine: CSV, Parquet, Arrow, text, or compressed JSON.

    Args:
        spec: The entry of `datasets:`.
        files: Split -> its files.
        streams: Read them as they come, and let the library keep nothing on the disk.
    """
    split = choose_split(spec, files)
    chosen = files[split.name]
    formats = {spec.ds_type or file_format(file) for file in chosen}
    if len(formats) != 1 or None in formats:
        raise UserError(
            Problem(
                f"can't tell the format of {', '.join(map(str, chosen))}",
                fix="set ds_type: to json, csv, parquet, arrow or text",
            )
        )
    format_name = str(formats.pop())
    options = {"sep": "\t"} if chosen[0].suffix.lower() == ".tsv" else {}
    data_files = {_SPLIT: [str(file) for file in chosen]}
    dataset = _load_set(
        spec,
        format_name,
        replace(split, name=_SPLIT),
        streams,
        chosen,
        data_files=data_files,
        **options,
    )
    is_single = len(chosen) == 1 and not spec.data_files
    name = str(chosen[0]) if len(chosen) == 1 else f"{spec.path}/{split.name}"
    return _source(spec, dataset, name, single_file_note(spec) if is_single else ())


def read_folder(spec: DatasetSpec, folder: Path, *, streams: bool = False) -> RecordSource:
    """A folder of data files, or one that `save_to_disk` wrote."""
    from datasets import load_dataset_builder, load_from_disk

    split = Split.parse(spec.split)
    if (folder / "dataset_dict.json").is_file():
        loaded = _load(spec, lambda: load_from_disk(str(folder)))
        dataset = loaded[choose_split(spec, loaded).name]
    elif (folder / "state.json").is_file():
        dataset = _load(spec, lambda: load_from_disk(str(folder)))
        return _slice(spec, split, dataset, str(folder), single_file_note(spec))
    else:
        options = _given(name=spec.name)
        builder = _load(spec, lambda: load_dataset_builder(str(folder), **options))
        dataset = _load_set(spec, str(folder), split, streams, **options)
        notes = _unread_note(spec, folder, builder.config.data_files)
        return _source(spec, dataset, f"{spec.path}/{split.name}", notes)
    return _slice(spec, split, dataset, f"{spec.path}/{split.name}")


def read_hub(spec: DatasetSpec, *, streams: bool = False) -> RecordSource:
    """A data set on the hub, from the cache where it is there; a stream is never kept."""
    dataset = _load_hub(spec, streams=streams)
    return _source(spec, dataset, f"{spec.path}/{Split.parse(spec.split).name}")


def hub_fingerprint(spec: DatasetSpec) -> str:
    """What tells a hub data set's content as it is now: it changes with the commit and the split.

    Raises:
        UserError: as `read_hub`.
    """
    return str(_load_hub(spec)._fingerprint)  # the library keeps it private, and everybody reads it


def hub_commits(spec: DatasetSpec) -> str:
    """What tells a hub data set's content without reading it: the commits of its files.

    Raises:
        UserError: as `read_hub`.
    """
    from datasets import load_dataset_builder

    builder = _load(spec, lambda: load_dataset_builder(spec.path, **_hub_options(spec)))
    files = builder.config.data_files or {}
    return repr([(split, list(each), each.origin_metadata) for split, each in files.items()])


def _load_hub(spec: DatasetSpec, *, streams: bool = False) -> Any:
    return _load_set(spec, spec.path, Split.parse(spec.split), streams, **_hub_options(spec))


def _hub_options(spec: DatasetSpec) -> dict[str, Any]:
    return _given(name=spec.name, revision=spec.revision, data_files=_plain(spec.data_files))


def _load_set(
    spec: DatasetSpec,
    path: str,
    split: Split,
    streams: bool,
    files: Sequence[Path] = (),
    **options: Any,
) -> Any:
    """The split's slice; as a stream it is cut by the number of records alone."""
    from datasets import load_dataset

    if not streams:
        slice_ = _slice_of(split, split.name)
        return _load(spec, lambda: load_dataset(path, split=slice_, **options), files)
    if any(bound is not None and not bound.isdigit() for bound in (split.start, split.stop)):
        raise UserError(
            Problem(
                f"{spec.path}: nobody knows how many records a stream has, so split: {spec.split} "
                "can't be cut from it",
                fix="count from the front, in records: train[:100000]; or set streaming: false",
            )
        )
    dataset = _load(
        spec, lambda: load_dataset(path, split=split.name, streaming=True, **options), files
    )
    first = int(split.start or 0)
    dataset = dataset.skip(first) if first else dataset
    return dataset if split.stop is None else dataset.take(max(int(split.stop) - first, 0))


def _unread_note(
    spec: DatasetSpec, folder: Path, data_files: dict[str, list[str]]
) -> tuple[str, ...]:
    """What to say of data files that the library passed over: it reads one format a folder."""
    taken = {Path(file).resolve() for files in data_files.values() for file in files}
    there = {path.relative_to(folder) for path in folder.rglob("*") if file_format(path)}
    names = sorted(
        str(path)
        for path in there
        if path.name not in _METADATA
        and not any(part.startswith((".", "__")) for part in path.parts)
        and (folder / path).resolve() not in taken
    )
    if not names:
        return ()
    more = ", ..." if len(names) > _NUM_NAMED else ""
    return (
        f"{spec.path} holds files that are not read: {', '.join(names[:_NUM_NAMED])}{more}; "
        "data_files: names those to read",
    )


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _plain(data_files: Any) -> Any:
    if isinstance(data_files, tuple):
        return list(data_files)
    if isinstance(data_files, dict):
        return {split: _plain(files) for split, files in data_files.items()}
    return data_files


def _slice_of(split: Split, name: str) -> str:
    if split.is_whole:
        return name
    return f"{name}[{split.start or ''}:{split.stop or ''}]"


def _slice(
    spec: DatasetSpec, split: Split, dataset: Any, file: str, notes: tuple[str, ...] = ()
) -> RecordSource:
    """A slice of a data set that the library has loaded whole."""
    if split.is_whole:
        return _source(spec, dataset, file, notes)
    chosen = split.positions(len(dataset))
    return _source(spec, dataset.select(chosen), file, notes, first_row=chosen.start)


@dataclass(frozen=True, slots=True)
class _Chunk:
    dataset: str
    file: str
    first_row: int
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def records(self) -> Iterator[RawRecord]:
        rows = zip(*self.columns.values(), strict=True)
        for row, values in enumerate(rows, start=self.first_row):
            fields = dict(zip(self.columns, values, strict=True))
            yield Record(fields, Origin(self.dataset, self.file, None, row))


def _source(
    spec: DatasetSpec,
    dataset: Any,
    file: str,
    notes: tuple[str, ...] = (),
    *,
    first_row: int = 0,
) -> RecordSource:
    def chunks(size: int) -> Iterator[Chunk]:
        row = first_row
        batches = dataset.iter(batch_size=size)
        while (columns := _load(spec, lambda: next(batches, None))) is not None:
            chunk = _Chunk(spec.path, file, row, columns)
            yield chunk
            row += len(chunk)

    return RecordSource(chunks, notes, len(dataset) if hasattr(dataset, "__len__") else None)


_RAISED = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, StopIteration,
    zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What formats raise, beside the library's own errors."""


def _load(spec: DatasetSpec, load: Callable[[], Any], files: Sequence[Path] = ()) -> Any:
    """What `load` gives; its errors as what the user can do.

    Args:
        spec: The entry of `datasets:`.
        load: Calls the library.
        files: What it reads, where that are files of this machine: a fault is looked for in them.

    The library and pyarrow raise whatever the format raised, so this catches by their base classes.
    """
    from datasets.exceptions import DatasetsError

    try:
        with _silenced():
            return load()
    except (DatasetsError, *_RAISED) as error:
        raise UserError(_explain(spec, error, files)) from error


@contextmanager
def _silenced() -> Iterator[None]:
    """The library logs nothing and draws no bars: what went wrong is told once, by `_explain`."""
    import datasets

    logger = logging.getLogger("datasets")
    level = logger.level
    is_kept_on = datasets.config.HF_DATASETS_DISABLE_PROGRESS_BARS is False  # by the user
    hides_bars = not datasets.are_progress_bars_disabled() and not is_kept_on
    logger.setLevel(logging.CRITICAL)
    if hides_bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if hides_bars:
            datasets.enable_progress_bars()


def _explain(spec: DatasetSpec, error: BaseException, files: Sequence[Path]) -> Problem:
    chain = _causes(error)
    names = {type(each).__name__ for each in chain}
    text = " ".join(str(each) for each in chain)
    page = f"https://huggingface.co/datasets/{spec.path}"
    first_line = f"{type(chain[-1]).__name__}: {str(chain[-1]).strip() or error}".splitlines()[0]
    problem = _explain_contents(spec, names, text) or _explain_files(spec, files, names, text)
    if problem is not None:
        return problem
    if "GatedRepoError" in names or re.search(r"\bgated\b", text):
        return Problem(
            f"{spec.path} is gated: its owner grants access",
            fix=f"ask for access on {page}, then log in with `hf auth login`",
        )
    if "OfflineModeIsEnabled" in names or "HF_HUB_OFFLINE" in text or "OfflineMode" in text:
        return Problem(
            f"{spec.path} is not in the cache, and HF_HUB_OFFLINE forbids to download it",
            fix="unset HF_HUB_OFFLINE, or name a file or folder of this machine",
        )
    if names & {"DatasetNotFoundError", "RepositoryNotFoundError", "HfHubHTTPError"}:
        return Problem(
            f"the hub has no data set {spec.path!r} that you may read",
            fix=f"check the name on {page}; if it is private, log in with `hf auth login`;\n"
            "a file of this machine is written with its ending, a folder with ./ in front",
        )
    if "RevisionNotFoundError" in names:
        return Problem(
            f"{spec.path} has no revision {spec.revision!r}", fix=f"see {page}/tree/main"
        )
    if names & {"ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout"}:
        return Problem(
            f"can't reach the hub for {spec.path}: {first_line}",
            fix="check the network, or name a file or folder of this machine",
        )
    return Problem(f"can't read {spec.path}: {first_line}", fix="check path, name, split, ds_type")


def _explain_contents(spec: DatasetSpec, names: set[str], text: str) -> Problem | None:
    """What is said of a data set that is there, and lacks what is asked for."""
    if match := _UNKNOWN_SPLIT.search(text):
        return no_such_split(spec, match["name"], re.findall(r"'(.+?)'", match["there"]))
    if names & {"EmptyDatasetError", "DataFilesNotFoundError"}:
        return Problem(
            f"{spec.path} holds no data files",
            fix=f"put files there that end in {', '.join(FORMATS)}, or name another path",
        )
    return None


_RAGGED = re.compile(r"Expected (?P<expected>\d+) fields in line (?P<line>\d+), saw (?P<saw>\d+)")
_CUT = {"EOFError", "BadGzipFile", "error", "LZMAError"}
"""What the standard library's decompressors raise."""


def _explain_files(
    spec: DatasetSpec, files: Sequence[Path], names: set[str], text: str
) -> Problem | None:
    """What is said of files that are there, and broken."""
    where = str(files[0]) if len(files) == 1 else spec.path
    if match := _RAGGED.search(text):
        what = f"has {match['saw']} fields where the first line has {match['expected']}"
        fix = 'a text that holds a separator is put in double quotes: "a, b"'
        return Problem(what, f"{where}:{match['line']}", fix=fix)
    if re.search(r"UTF-?8|codec can't decode", text) and (place := _first_fault(files)):
        return Problem("is not UTF-8", place, fix="save it as UTF-8")
    if "corresponds to no data" in text or "StopIteration" in names:
        return Problem("no records to train on: the file holds none", where)
    if names & _CUT:
        return Problem(
            "is cut short, or is not compressed as its name says", where, fix="copy it again"
        )
    return None


def _first_fault(files: Sequence[Path]) -> str | None:
    """The first line that is not UTF-8."""
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError:
                    return f"{file}:{number}"
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what lies beneath it, the innermost last."""
    chain = [error]
    while (beneath := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(beneath)
    return chain

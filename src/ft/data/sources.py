"""Where a data set's records come from: a file, a folder, or the hub.

    read_records(spec, base_dir)
    |-- .json, .jsonl on this machine   json_files.py   every record knows its file and line
    `-- everything else                 libraries.py    the `datasets` library

A path is a file or a folder on this machine if there is one (in the working directory, then beside
the YAML), or if it looks like one; otherwise it is a hub data set's name.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ft.data import json_files, libraries
from ft.data.records import (
    COMPRESSIONS,
    DEFAULT_SPLIT,
    FORMATS,
    RecordSource,
    Split,
    choose_split,
    file_format,
)
from ft.runtime.durable import sha256_of
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

MAX_FILES = 20_000
"""A folder of more, like / or a home, is named by mistake."""


def read_records(spec: DatasetSpec, base_dir: Path, *, streams: bool = False) -> RecordSource:
    """The records of a data set, broken ones among them.

    Args:
        spec: The entry of `datasets:`.
        base_dir: The YAML's folder, where a path is looked up that the working directory lacks.
        streams: Read them as they come: nothing is downloaded ahead, converted or kept.

    Raises:
        UserError: There is no such file, folder, split or hub data set, or it can't be read.
    """
    path = find_local(spec.path, base_dir)
    files = _local_files(spec, path, base_dir)
    if files is not None:
        if all(
            _is_plain_json(file, spec.ds_type) for files_of in files.values() for file in files_of
        ):
            return json_files.read(spec, files)
        source = libraries.read_files(spec, files, streams=streams)
    elif path is None:
        source = libraries.read_hub(spec, streams=streams)
    else:
        source = libraries.read_folder(spec, path, streams=streams)
    return replace(source, notes=(*source.notes, *json_files.note_on_line_limit(spec)))


@dataclass(frozen=True)
class SourceIdentity:
    """What tells the content of a data set.

    Attributes:
        digest: Changes with any byte of the files, with their order, endings and number.
        names: How the data set and its files are called; no part of the digest.
    """

    digest: str
    names: tuple[str, ...]


def identify_source(spec: DatasetSpec, base_dir: Path) -> SourceIdentity:
    """Reads the bytes of a data set's files, and decodes none of them.

    A hub data set is told by the `datasets` library's fingerprint, so it is looked up on the hub.

    Raises:
        UserError: There is no such file, folder, split or hub data set.
    """
    path = find_local(spec.path, base_dir)
    files = _local_files(spec, path, base_dir)
    if files is not None:
        chosen = files[choose_split(spec, files).name]
        parts = [("".join(file.suffixes).lower(), _digest(file)) for file in chosen]
        return SourceIdentity(_digest_of(parts), (spec.path, *map(str, chosen)))
    if path is None:
        return SourceIdentity(_digest_of([("hub", libraries.hub_fingerprint(spec))]), (spec.path,))
    inside = sorted(_files_below(path))
    parts = [(str(file.relative_to(path)), _digest(file)) for file in inside]
    return SourceIdentity(_digest_of(parts), (spec.path, str(path)))


def identify_stream(spec: DatasetSpec, base_dir: Path) -> str:
    """What tells a data set's content without reading it all.

    Sizes and times of the files; the commit of a hub data set.

    Raises:
        UserError: There is no such file, folder, split or hub data set.
    """
    path = find_local(spec.path, base_dir)
    files = _local_files(spec, path, base_dir)
    if files is not None:
        return repr([_stamp(file) for file in files[choose_split(spec, files).name]])
    if path is None:
        return libraries.hub_commits(spec)
    inside = sorted(_files_below(path))
    return repr([(str(file.relative_to(path)), _stamp(file)) for file in inside])


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _files_below(folder: Path) -> list[Path]:
    """Every file of a data set's folder; what can't be looked at is not read later either."""
    found = []
    for root, _, names in os.walk(folder):
        found += [path for name in names if os.path.isfile(path := Path(root, name))]
        if len(found) > MAX_FILES:
            what = f"holds over {MAX_FILES:,} files: it is no data set"
            fix = "name the folder, or the file, that holds the records"
            raise UserError(Problem(what, str(folder), fix=fix))
    return found


def _digest(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise UserError(Problem(f"can't be read: {error.strerror}", where=str(file))) from None


def _digest_of(parts: list[tuple[str, str]]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def find_local(name: str, base_dir: Path) -> Path | None:
    """The file or folder that `name` means on this machine; None if it is a hub name.

    Raises:
        UserError: It looks like a file, and is not there.
    """
    given = Path(name).expanduser()
    candidates = [given] if given.is_absolute() else [given, base_dir / given]
    for candidate in candidates:
        if candidate.exists():
            return _plain_file_or_folder(candidate)
    looks_local = name.startswith(("./", "../", "/", "~")) or file_format(given) is not None
    if not looks_local:
        return None
    folders = list(dict.fromkeys(str(candidate.parent.resolve()) for candidate in candidates))
    nearest = _nearest_files(given.name, [Path(folder) for folder in folders])
    raise UserError(
        Problem(
            f"there is no file {name!r}",
            fix=f"looked in {', '.join(folders)}"
            + (f"\nnearest: {', '.join(nearest)}" if nearest else ""),
        )
    )


def _plain_file_or_folder(path: Path) -> Path:
    if path.is_file() or path.is_dir():
        return path
    fix = "write what comes out of it into a file, and name that"
    raise UserError(
        Problem("is a pipe or a device, which can be read once at best", str(path), fix=fix)
    )


def _local_files(
    spec: DatasetSpec, path: Path | None, base_dir: Path
) -> dict[str, tuple[Path, ...]] | None:
    """Split -> files, where the entry names single files of this machine; else None."""
    if spec.path in set(FORMATS.values()) and path is None and spec.data_files:
        folder = None
    elif path is not None and path.is_file():
        if spec.data_files:
            raise UserError(
                Problem(
                    f"data_files stands beside a path that is a file, {spec.path}",
                    fix="set path: to the folder of the files, or take data_files away",
                )
            )
        return {Split.parse(spec.split).name: (path,)}
    elif path is not None and spec.data_files:
        folder = path
    else:
        return None
    named = spec.data_files
    by_split = named if isinstance(named, dict) else {DEFAULT_SPLIT: named or ()}
    return {
        split: tuple(
            found
            for name in ((names,) if isinstance(names, str) else names)
            for found in _expand(name, folder, base_dir)
        )
        for split, names in by_split.items()
    }


def _is_plain_json(path: Path, ds_type: str | None) -> bool:
    is_packed = path.suffix.lower() in COMPRESSIONS
    return (ds_type or file_format(path)) == "json" and not is_packed


def _expand(name: str, folder: Path | None, base_dir: Path) -> list[Path]:
    """The files that one entry of `data_files:` names; it may be a pattern."""
    if any(character in name for character in "*?["):
        roots = [folder] if folder else [Path(), base_dir]
        for root in roots:
            if found := sorted(path for path in root.glob(name) if path.is_file()):
                return found
        raise UserError(Problem(f"no file matches {name!r}", fix=f"looked in {roots[0].resolve()}"))
    if folder is not None:
        found_path = find_local(str(folder / name), base_dir)
    else:
        found_path = find_local(name if Path(name).is_absolute() else f"./{name}", base_dir)
    if found_path is None:
        raise UserError(Problem(f"there is no file {name!r}", where=str(folder or ".")))
    return [found_path]


def _nearest_files(name: str, folders: Iterable[Path]) -> list[str]:
    there = sorted(
        {file.name for folder in folders if folder.is_dir() for file in folder.iterdir()}
    )
    return difflib.get_close_matches(name, there, n=3)

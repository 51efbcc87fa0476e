"""A folder of things that are made once: each whole or not there, each under the key of its making.

    FOLDER/KEY/            what was made, and manifest.json with size, time and crc32 of each file
    FOLDER/KEY.lock        held while it is made, so that concurrent runs make it once

An entry is filled under another name and renamed, so it is never half there; an entry that was
damaged later is noticed, and made again: a thorough cache reads all of an entry each time, as one
must who trains on it; the other one trusts a file that has its size and was never written to since.
Entries are never removed here: any of them may go at any time, and so may the folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ft.runtime.durable import STAGING_PREFIX, is_disk_full, remove, staged_folder, write_json
from ft.runtime.errors import MachineError, Problem

_MANIFEST = "manifest.json"
_BLOCK = 1 << 18


class UnwritableCacheError(Exception):
    """The folder can't be written; says why."""


class DamagedEntryError(Exception):
    """An entry is not as it was made; says what is wrong."""


def default_folder() -> Path:
    """Where the cache is unless the YAML says otherwise: one folder a user."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "ft" / "tokenized"


class EntryCache:
    """The entries of a folder."""

    def __init__(self, folder: Path, *, is_thorough: bool = True) -> None:
        """Args: where they are; and whether an entry is read to its last byte to be found."""
        self.folder = folder
        self._is_thorough = is_thorough

    def find(self, key: str) -> Path | None:
        """The folder of an entry; None if there is none.

        Raises:
            DamagedEntryError: It is there, and not as it was made.
        """
        entry = self.folder / key
        if not entry.is_dir():
            return None
        try:
            manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
            for name, expected in manifest.items():
                if not self._is_as_made(entry / name, expected):
                    raise DamagedEntryError(f"{entry / name} was changed")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DamagedEntryError(f"{entry}: {error}") from None
        return entry

    def _is_as_made(self, file: Path, expected: list[int]) -> bool:
        size, time_ns, crc = expected
        status = file.stat()
        if status.st_size != size:
            return False
        is_untouched = status.st_mtime_ns == time_ns
        return (is_untouched and not self._is_thorough) or _crc32(file) == crc

    @contextmanager
    def making(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Lets one process at a time make an entry, where the file system has locks.

        Args:
            key: The entry's.
            on_wait: Called once if another process is at it.

        Raises:
            UnwritableCacheError: The folder can't be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / f"{key}.lock").open("a+b")
        except OSError as error:
            raise UnwritableCacheError(error.strerror or str(error)) from None
        with lock:
            is_locked = _lock(lock.fileno(), on_wait)
            if is_locked:  # then nobody else is at it, and what lies here was left by the dead
                for leftover in self.folder.glob(f"{STAGING_PREFIX}*{key}-*"):
                    remove(leftover)
            yield

    @contextmanager
    def filling(self, key: str) -> Iterator[Path]:
        """A folder to fill, which becomes the entry when the block ends, or vanishes.

        Raises:
            MachineError: The disk is full.
        """
        entry = self.folder / key
        try:
            with staged_folder(entry) as staging:
                yield staging
                sums = {path.name: _describe(path) for path in sorted(staging.iterdir())}
                write_json(staging / _MANIFEST, sums)
        except OSError as error:
            if is_disk_full(error):
                raise _disk_full(self.folder) from None
            raise


def _describe(file: Path) -> list[int]:
    """What the manifest says of a file: bytes, time of the last change in ns, crc32."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, _crc32(file)]


def _crc32(path: Path) -> int:
    crc = 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            crc = zlib.crc32(block[:size], crc)
    return crc


def _lock(descriptor: int, on_wait: Callable[[], None]) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: both make it, and the last rename stays
        return False
    return True


def _disk_full(folder: Path) -> MachineError:
    return MachineError(
        Problem(
            "no space left on the disk for the tokenized cache",
            str(folder),
            fix="free some (old entries there may go), or name a folder on another disk: "
            "dataset_prepared_path",
        )
    )

"""Files that are whole or not there: what is written survives a kill at any moment.

A file or folder is written under a temporary name beside its place, flushed to the disk, and
renamed; a rename within one folder is atomic. The order is fsync(files), fsync(folder), rename,
fsync(parent).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

STAGING_PREFIX = ".tmp-"


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old or the new one, never half of it."""
    with staged_file(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def staged_file(target: Path) -> Iterator[TextIO]:
    """A text file to write, which becomes ``target`` when the block ends; gone if it raises."""
    staging = target.with_name(f"{STAGING_PREFIX}{target.name}-{os.getpid()}")
    try:
        with staging.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(target)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when the block ends, or vanishes if it raises.

    An existing target and the new one change places at once, where the kernel can do that, and the
    old one is removed last: there is always a whole one under the name. Elsewhere there is none for
    the moment between two renames.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f"{STAGING_PREFIX}{target.name}-{os.getpid()}")
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        yield staging
        sync_tree(staging)
        _swap_in(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _swap_in(staging: Path, target: Path) -> None:
    old = target.with_name(f"{STAGING_PREFIX}old-{target.name}-{os.getpid()}")
    if not os.path.lexists(target):
        staging.rename(target)
    elif _exchange(staging, target):
        old = staging
    else:
        target.rename(old)
        staging.rename(target)
    sync_folder(target.parent)
    remove(old)


_AT_WORKING_DIRECTORY, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h, and of linux/fs.h


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step (renameat2); false where there is no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    here = _AT_WORKING_DIRECTORY
    return bool(call(here, paths[0], here, paths[1], _RENAME_EXCHANGE) == 0)


def is_staging(name: str) -> bool:
    """Whether a file or folder of this name is one of ours, left by a writer that was killed."""
    return re.fullmatch(rf"{re.escape(STAGING_PREFIX)}.*-\d+", name) is not None


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed writer left in the folder, by its staging name."""
    for path in folder.iterdir():
        if is_staging(path.name):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or nothing; a link is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def retire(folder: Path) -> None:
    """Removes a folder that counts by its name: the name goes first, so that no half is found."""
    aside = folder.with_name(f"{STAGING_PREFIX}old-{folder.name}-{os.getpid()}")
    remove(aside)
    folder.rename(aside)
    remove(aside)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, none of the user's share, or a file longer than the process may write."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no space left, however a library words it."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    text = str(error)
    return any(f"(os error {number})" in text or os.strerror(number) in text for number in _FULL)


def sync_tree(folder: Path) -> None:
    """Flushes every file and folder below ``folder`` to the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Flushes the folder's own entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

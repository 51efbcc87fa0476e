"""`ft doctor`: what this machine can do, what it can't, why, and the command that mends it.

Python, libraries, space and login are looked at here; what computes is tried in ``trials``. Nothing
is sent anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from ft.cli.trials import Finding, try_everything
from ft.runtime import MachineError, Problem

_GIB = 2**30
_LITTLE_SPACE_BYTES = 20 * _GIB
"""A 7B base in half precision takes 14 GiB, its adapter and checkpoints the rest."""
_NO_SPACE_BYTES = _GIB


def examine(folder: Path) -> Iterator[Finding]:
    """Looks at everything, from the ground up; stops at libraries that training can't do without.

    Args:
        folder: Where runs would be written.
    """
    yield _python()
    libraries = list(_libraries())
    yield from libraries
    yield from _space(folder)
    yield _hub_login()
    if all(finding.works for finding in libraries if finding.is_needed):
        yield from try_everything()


def verdict(findings: list[Finding]) -> str:
    """What the findings come to.

    Raises:
        MachineError: training can't run here.
    """
    missing = [finding for finding in findings if finding.is_needed and not finding.works]
    if missing:
        raise MachineError(
            *[
                Problem(f"{finding.subject}: {finding.detail}", fix=finding.fix)
                for finding in missing
            ]
        )
    return "training can run here"


# -- Python and libraries -----------------------------------------------------------------------


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    works = sys.version_info >= (3, 11)
    fix = "" if works else "install Python 3.11 or newer, and ft into it"
    return Finding("python", works, f"{version}, {sys.executable}", fix, is_needed=True)


def _libraries() -> Iterator[Finding]:
    try:
        requirements = metadata.requires("ft") or []
    except metadata.PackageNotFoundError:
        yield Finding("ft", False, "runs from a folder, is not installed", "pip install .")
        return
    for requirement in requirements:
        if "extra ==" not in requirement:
            yield library(requirement)


def library(requirement: str) -> Finding:
    """A required library beside the version that is here.

    Args:
        requirement: As packages write it: ``torch>=2.9``.
    """
    match = re.match(r"([\w.-]+)\s*(?:>=\s*([\w.]+))?", requirement)
    name, floor = (match[1], match[2] or "") if match else (requirement, "")
    fix = f'pip install "{name}{">=" + floor if floor else ""}"'
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, False, "is not installed", fix, is_needed=True)
    if _numbers(version) < _numbers(floor):
        return Finding(name, False, f"{version} is older than {floor}", fix, is_needed=True)
    return Finding(name, True, f"{version} (needs {floor or 'any'})", is_needed=True)


def _numbers(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` as (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


# -- space and login ----------------------------------------------------------------------------


def _space(folder: Path) -> Iterator[Finding]:
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for subject, path, move in (
        ("space for runs", folder, "choose another place: ft train CFG --output-dir FOLDER"),
        ("space for models", cache, "choose another place: export HF_HOME=FOLDER"),
    ):
        yield space(subject, path, move)


def space(subject: str, path: Path, fix: str) -> Finding:
    """Free space where a folder is, or will be."""
    existing = next(
        parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists()
    )
    free_bytes = shutil.disk_usage(existing).free
    detail = f"{free_bytes / _GIB:.1f} GiB free in {path}"
    if free_bytes >= _LITTLE_SPACE_BYTES:
        return Finding(subject, True, detail)
    if free_bytes >= _NO_SPACE_BYTES:
        return Finding(subject, True, f"{detail}: enough for small models", fix)
    return Finding(subject, False, detail, f"free some, or {fix}")


def _hub_login() -> Finding:
    """Whether there is a token; it is neither shown nor tried."""
    try:
        from huggingface_hub import get_token

        has_token = bool(get_token())
    except ImportError:
        return Finding(
            "hub login", False, "huggingface_hub is not there", "pip install transformers"
        )
    except OSError as error:
        return Finding(
            "hub login", False, f"the token can't be read: {error.strerror}", "hf auth login"
        )
    if has_token:
        return Finding("hub login", True, "a token is there (not tried: nothing is sent)")
    return Finding(
        "hub login", False, "no token: gated and private models can't be loaded", "hf auth login"
    )

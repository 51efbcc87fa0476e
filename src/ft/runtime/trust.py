"""Which strategy files the user of this account has run from their own folders.

`ft train` runs a strategy file beside the YAML and remembers its sha256 here. A run carries the
file's text; `ft infer` runs that text without a question only if its sha256 is remembered, so a
run directory that came from somebody else can't bring code with it.
"""

from __future__ import annotations

import os
from pathlib import Path


def trust_code(sha256: str) -> None:
    """Remembers a file that the user chose to run; without a writable home, forgets it."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / sha256).touch()
    except OSError:
        return


def is_trusted_code(sha256: str) -> bool:
    """Whether a file with this content was run by this user before."""
    return len(sha256) == 64 and sha256.isalnum() and (_folder() / sha256).exists()


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ft" / "trusted-code"

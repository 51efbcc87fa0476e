"""What a run ran on: versions and platform, read without importing anything heavy."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
    "flash-attn",
)


def describe_environment() -> dict[str, Any]:
    """Python, platform and library versions; a library that is not installed is None."""
    return {
        "ft": library_version("ft"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "libraries": {name: library_version(name) for name in _LIBRARIES},
    }


def process_rank() -> int:
    """This process's number among those that a launcher started; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def library_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    from importlib import metadata  # a third of what `ft --help` would take

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

"""Names of files and folders that no machine could have, told before anything looks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.document import KeyPath

_KEYS = ("base_model", "tokenizer_config", "lora_model_dir", "output_dir", "dataset_prepared_path")
_KEYS_OF_SETS = ("path", "type", "data_files")
_KEY = "chat_template_jinja"
_LONGEST_PATH, _LONGEST_PART = 4000, 255
"""Bytes, on the file systems that there are."""


def find_impossible_names(flat: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """The values of a config that can name no file.

    Yields:
        The value's place, and what is wrong with it.
    """
    for key in _KEYS:
        yield from _find(flat.get(key), (key,))
    for name in ("datasets", "test_datasets"):
        entries = flat.get(name)
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            for key in _KEYS_OF_SETS if isinstance(entry, dict) else ():
                is_layout = key == "type" and not isinstance(entry.get(key), str)
                if not is_layout:
                    yield from _find(entry.get(key), (name, index, key))


def template_text(given: str, base_dir: Path) -> str:
    """A chat template's text, where a file is named: beside the YAML, or in the working directory.

    Args:
        given: A template, or a file's name.
        base_dir: The YAML's folder.

    Raises:
        UserError: the file is not there, can't be read, or is no text.
    """
    if "\n" in given or "{" in given or fault_of_name(given):
        return given
    name = Path(given).expanduser()
    file = next((path for path in (base_dir / name, name) if path.is_file()), None)
    if file is None:
        if not given.endswith((".jinja", ".jinja2", ".j2")):
            return given
        folders = " and ".join(dict.fromkeys([str(base_dir.absolute()), str(Path.cwd())]))
        raise UserError(Problem(f"{_KEY}: there is no file {given}", fix=f"looked in {folders}"))
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(
            Problem(f"{_KEY}: {file} can't be read: {why}", fix="mend the file")
        ) from None


def _find(value: Any, key_path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _find(inner, (*key_path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _find(inner, (*key_path, index))
    elif isinstance(value, str) and (fault := fault_of_name(value)):
        yield key_path, fault


def fault_of_name(name: str) -> str:
    """Why there can be no file of this name; empty if there can."""
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return "holds half a character (a lone surrogate)"
    if control := next((c for c in name if ord(c) < 32 or ord(c) == 127), None):
        return f"holds a line break or another control character, U+{ord(control):04X}"
    if len(encoded) > _LONGEST_PATH or any(
        len(part) > _LONGEST_PART for part in encoded.split(b"/")
    ):
        return f"is longer than the name of a file can be: {len(encoded):,} bytes"
    if name.startswith("~") and os.path.expanduser(name).startswith("~"):
        return f"names a user that this machine does not have: {name.split('/')[0]}"
    return ""

"""What tells a tokenizer without loading it: the bytes of its files, and what the YAML adds.

The tokenized cache asks for this, so it must be quick, and must change whenever the tokenizer does.
A hub name is looked up in the hub's cache on this machine, where loading puts it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ft.runtime.durable import sha256_of
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import ModelSpec

_FILES = (
    "tokenizer*.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
    "vocab*",
    "merges*",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "tekken.json",
)
"""What tokenizers are made of, in the names that transformers gives them."""

_CONFIG_KEYS = ("model_type", "tokenizer_class", "transformers_version")
"""What transformers reads of a model's config.json to choose the tokenizer's class."""

_YAML_KEYS = {"special_tokens", "tokens", "tokenizer_use_mistral_common"}


def tokenizer_identity(spec: ModelSpec) -> str | None:
    """A sum that changes with anything that changes the tokenizer of `spec`.

    Returns:
        None if its files are not on this machine yet; then load the tokenizer, and ask again.
    """
    name, revision = spec.base_model, spec.revision_of_model
    if spec.tokenizer_config:
        revision = revision if spec.tokenizer_config == spec.base_model else None
        name = spec.tokenizer_config
    folder = Path(name).expanduser()
    found = folder if folder.is_dir() else _hub_snapshot(name, revision or "main")
    files = list(tokenizer_files(found)) if found is not None else []
    if found is None or not files:
        return None
    own = [Path(__file__).with_name(name) for name in ("tokenizer.py", "tekken.py")]
    parts = {
        "files": [(str(file.relative_to(found)), sha256_of(file)) for file in files],
        "config": _config_part(found / "config.json"),
        "yaml": spec.model_dump(mode="json", include=_YAML_KEYS),
        "code": [sha256_of(file) for file in own],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def require_own_files(folder: Path, where: str) -> None:
    """Refuses a folder in which a tokenizer's file is a link to a file elsewhere.

    A run keeps copies of these files, so a link to a private one would be carried along with it.
    The hub's cache is made of links, from a snapshot to the blobs beside it.

    Raises:
        UserError: names the link and where it leads.
    """
    own = folder.resolve()
    places = [own, own.parent.parent / "blobs"] if own.parent.name == "snapshots" else [own]
    for file in tokenizer_files(folder):
        target = file.resolve()
        if not any(target.is_relative_to(place) for place in places):
            what = f"{file.name} is a link to a file outside of the folder: {target}"
            fix = "if that is meant, put a copy in its place: the run keeps the tokenizer's files"
            raise UserError(Problem(what, where, fix=fix))


def tokenizer_files(folder: Path) -> Iterator[Path]:
    """What a tokenizer in the folder is made of, by name."""
    found = {path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(found)


def _config_part(config: Path) -> dict[str, str]:
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: str(values.get(key)) for key in _CONFIG_KEYS} if isinstance(values, dict) else {}


def _hub_snapshot(name: str, revision: str) -> Path | None:
    """The folder of a repository's files as they were last downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("tokenizer_config.json", "tokenizer.json", "config.json"):
        try:
            path = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError:  # a path, of a folder that is not there
            return None
        if isinstance(path, str):
            return Path(path).parent
    return None

"""Errors of loading from a folder or the hub, told as what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from ft.runtime.errors import FtError, Problem, UserError

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


@contextmanager
def explained(name: str, role: str, revision: str | None = None) -> Iterator[None]:
    """Turns a library's loading error into a ``UserError`` that says what to do.

    Args:
        name: The hub name or folder that is read.
        role: What it is, as the YAML calls it: ``base_model``, ``tokenizer_config``.
        revision: The revision that was asked for.
    """
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        problem = _explain(error, name, role, revision) or _stumbled(error, name, role)
        raise UserError(problem) from error
    except _STUMBLES as error:
        if isinstance(error, FtError):
            raise
        raise UserError(_stumbled(error, name, role)) from error
    except Exception as error:
        if type(error) is not Exception:  # what `tokenizers` raises has no class of its own
            raise
        raise UserError(_stumbled(error, name, role)) from error


_STUMBLES = (ImportError, KeyError, IndexError, TypeError, AttributeError, RecursionError)
"""What libraries raise where a file holds something else than they expect."""


def _stumbled(error: Exception, name: str, role: str) -> Problem:
    said = next((line for line in str(error).splitlines() if line.strip()), "")[:200]
    if isinstance(error, ImportError):
        other = "base_model" if role == "base_model" else "with tokenizer_config"
        fix = f"install that, or name another {other}"
        return Problem(f"needs a library that is not here: {said}", f"{role}: {name}", fix=fix)
    return Problem(
        f"cannot be read: {type(error).__name__}: {said}",
        f"{role}: {name}",
        fix="one of its files is damaged, or made for another version: copy or download it again",
    )


def require_on_hub(name: str, file: str, *, role: str, revision: str | None = None) -> str | None:
    """Asks once, at the start, whether a file of the hub is there and may be read.

    The libraries' own loading asks again and again for a minute where there is no network.

    Args:
        name: The hub name.
        file: A file of it: `CONFIG`.
        role: What it is, as the YAML calls it.
        revision: Branch, tag or commit.

    Returns:
        The commit that the revision stands for now; in the local cache, if the hub is out of reach:
        then nothing more is asked of the hub by this process.

    Raises:
        UserError: it is not on the hub, not for this account, or neither within reach nor in the
            local cache.
    """
    with explained(name, role, revision):
        try:
            get_hf_file_metadata(hf_hub_url(name, file, revision=revision))
        except _REFUSALS:
            raise
        except Exception as error:  # a matter of the network, and libraries differ in its classes
            cached = try_to_load_from_cache(name, file, revision=revision)
            if not isinstance(cached, str):
                raise LocalEntryNotFoundError(str(error)) from error
            # The libraries' own switch: else each of them asks again and again for half a minute.
            constants.HF_HUB_OFFLINE = True
        else:  # asked for by its branch, so that the cache knows where the branch stood
            cached = hf_hub_download(name, file, revision=revision)
        return Path(cached).parent.name  # .../snapshots/COMMIT/config.json


def _explain(error: Exception, name: str, role: str, revision: str | None) -> Problem | None:
    where = f"{role}: {name}"
    kinds = tuple(_chain(error))
    for kind, what, fix in _KNOWN:
        if any(isinstance(one, kind) for one in kinds):
            return Problem(
                what.format(revision=revision), where, fix=fix.format(name=name, role=role)
            )
    text = str(error)
    for words, what, fix in _KNOWN_TEXTS:
        if any(word in text for word in words):
            return Problem(what, where, fix=fix)
    if isinstance(error, SafetensorError):
        return Problem(f"has a broken weight file: {text}", where, fix="download or copy it again")
    if isinstance(error, OSError):
        return Problem(f"cannot be read: {text.splitlines()[0]}", where)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and everything that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_REFUSALS = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError)
"""The hub's own word, gated repositories included; anything else is a matter of the network."""

_LOCAL_FOLDER = "or point to a copy: --base-model FOLDER"

_KNOWN: tuple[tuple[type[Exception], str, str], ...] = (
    (
        GatedRepoError,
        "is gated: its owner has not let this account in",
        "ask for access on https://huggingface.co/{name}, then `hf auth login`\n" + _LOCAL_FOLDER,
    ),
    (
        RevisionNotFoundError,
        "has no revision {revision!r}",
        "see the model's branches on its page, or leave revision_of_model empty",
    ),
    (
        RepositoryNotFoundError,
        "is not on the hub, or is private and this account may not see it",
        "check the name; for a private model `hf auth login`\n" + _LOCAL_FOLDER,
    ),
    (
        LocalEntryNotFoundError,
        "is not in the local cache, and the hub is out of reach: no network, or HF_HUB_OFFLINE",
        "download it once with `hf download {name}` while online\n" + _LOCAL_FOLDER,
    ),
    (
        EntryNotFoundError,
        "lacks a file that a model must have",
        "check that {name} is a model in transformers' format",
    ),
    (HFValidationError, "is no folder and no hub name", "a hub name reads owner/model"),
)
"""From the special to the general, as their classes inherit."""

_KNOWN_TEXTS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("trust_remote_code", "custom code", "execute the configuration file"),
        "needs code from its own repository, which is never run",
        "use a model that transformers knows by itself",
    ),
    (
        ("use_safetensors", "file named model.safetensors"),
        "has no safetensors; pickled weights can run code and are never read",
        "use a revision or a copy that has safetensors",
    ),
    (
        ("model type `", "does not recognize this architecture", "Unrecognized model"),
        "is of a kind that this version of transformers does not know",
        "upgrade transformers, or check the model's config.json",
    ),
    (
        ("Unrecognized configuration class",),
        "is no causal language model",
        "name a model that generates text",
    ),
    (
        ("Couldn't instantiate the backend tokenizer", "Can't load tokenizer"),
        "has no tokenizer that can be read",
        "name one with tokenizer_config; tokenizer.json is the format to look for",
    ),
)

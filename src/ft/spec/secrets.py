"""Secrets have no place in a config: it is copied into run folders, shared, committed.

A secret is seen by the name of its key (``hf_token``, ``wandb_api_key``), by the form of its value
(``hf_...``), or by its place in an address (``https://name:password@host``). Nothing that was seen
is ever shown again, not even as the offending line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ft.runtime.errors import Problem
from ft.spec.document import KeyPath

_OWNERS = (
    "hf|hub|huggingface|hugging_face|wandb|comet|mlflow|trackio|swanlab|clearml|openai|anthropic|aws|azure|gcp"
    "|google|github|gitlab|modelscope|s3"
)
_SECRET_NAME = (
    rf"(?:(?:{_OWNERS}|api|auth|access|bearer|secret|private)_)(?:\w+_)?(?:token|key|secret|password)"
    rf"(?:_id)?|(?:{_OWNERS})_?(?:token|key|secret|password|apikey)|api_?key|password|passwd|secret"
)
_NAME = re.compile(rf"(?:{_SECRET_NAME})", re.IGNORECASE)
_NAMED_VALUE = re.compile(
    rf"(?<![a-z0-9])(?P<name>{_SECRET_NAME})(?P<between>[\"']?\s*[:=]\s*)\S.*", re.IGNORECASE
)

_TOKEN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,}
      | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w-]{16,}
      | wandb_v\d_\w{16,} | sk-[A-Za-z0-9_-]{20,} | AKIA[0-9A-Z]{16} | AIza[\w-]{30,}
      | xox[abprs]-[\w-]{16,}
    )""",
    re.VERBOSE,
)
_IN_ADDRESS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,20}://)[^/\s@\"']+@"
    r"|(?P<query>[?&](?:\w*token|api_?key|sig|x-amz-signature|awsaccesskeyid)=)[^&\s\"']+",
    re.IGNORECASE,
)
_HIDDEN = "***"


def find_secrets(
    values: Mapping[str, Any], known_keys: Collection[str]
) -> Iterator[tuple[KeyPath, str, str]]:
    """Everything in a file that looks like a secret.

    Args:
        values: The file's values.
        known_keys: Keys of the dialect, which are no secrets by their name (``eos_token``).

    Yields:
        Its place, what is wrong and what to do, without the secret itself.
    """
    yield from _find(values, (), known_keys)


def names_a_secret(name: str, known_keys: Collection[str]) -> bool:
    """Whether a key is one that holds a secret, by its name alone."""
    return name not in known_keys and _NAME.fullmatch(name.replace("-", "_")) is not None


def _find(
    value: Any, path: KeyPath, known_keys: Collection[str]
) -> Iterator[tuple[KeyPath, str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = (*path, key)
            name = str(key)
            if _TOKEN.search(name):
                yield here, "a key looks like a token", _instead_of(name)
            elif names_a_secret(name, known_keys):
                yield here, f"{name} is a secret, which has no place in a config", _instead_of(name)
            else:
                yield from _find(inner, here, known_keys)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _find(inner, (*path, i), known_keys)
    elif isinstance(value, str):
        name = ".".join(map(str, path))
        if token := _TOKEN.search(value):
            what = f"the value of {name} looks like a token, which has no place in a config"
            yield path, what, _instead_of(token[0])
        elif _IN_ADDRESS.search(value):
            fix = _instead_of(name) if name.startswith("mlflow") else _PLAIN_ADDRESS
            yield path, f"the address in {name} holds a secret", fix


_REPLACE_IT = "if others can read this file, replace the secret too"
_LOGIN = f"take it out: run `hf auth login`, or set HF_TOKEN in the environment;\n{_REPLACE_IT}"
_PLAIN_ADDRESS = f"download the file, and name it here; hub sets: `hf auth login`;\n{_REPLACE_IT}"
_VARIABLES = (
    ("wandb", "WANDB_API_KEY"),
    ("comet", "COMET_API_KEY"),
    ("swanlab", "SWANLAB_API_KEY"),
    ("clearml", "CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY"),
    ("mlflow", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ("openai", "OPENAI_API_KEY"),
    ("sk-", "OPENAI_API_KEY"),
    ("aws", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("akia", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("gh", "GITHUB_TOKEN"),
    ("git", "GITHUB_TOKEN"),
)
"""How a secret or the name of its key begins: the variable that its owner reads."""


def _instead_of(name_or_token: str) -> str:
    lowered = name_or_token.casefold()
    if lowered.startswith(("hf", "hub", "hugging", "api_org")):
        return _LOGIN
    variable = next((name for start, name in _VARIABLES if lowered.startswith(start)), "")
    named = variable or "a variable"
    return f"take it out and set {named} in the environment;\n{_REPLACE_IT}"


def hide_secrets(problem: Problem) -> Problem:
    """A problem that says the same without any secret."""
    return replace(
        problem,
        what=hide(problem.what),
        where=hide(problem.where),
        source=hide(problem.source),
        fix=hide(problem.fix),
    )


def hide(text: str) -> str:
    """A text with stars in the place of its secrets."""
    text = _TOKEN.sub(_HIDDEN, text)
    text = _IN_ADDRESS.sub(
        lambda match: (
            f"{match['scheme']}{_HIDDEN}@" if match["scheme"] else f"{match['query']}{_HIDDEN}"
        ),
        text,
    )
    return _NAMED_VALUE.sub(rf"\g<name>\g<between>{_HIDDEN}", text)

"""The tokenizer of a run: loaded, its special tokens set, the new ones known.

A token that is in the vocabulary already is used as it stands; only a string that is not there
becomes a new token, whose embedding is then trained (``ft.model.adapter``). Padding never decides
what is trained: labels are masked by position, so pad may be the end token without untraining it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ft.model.hub import explained
from ft.model.tekken import settle_tekken
from ft.model.tokenizer_identity import require_own_files
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import ModelSpec

_AS_MISTRAL = (
    "tokenizer_use_mistral_common: texts are split as mistral-common does; conversations are laid "
    "out by the chat template, and a control token that is written in a record counts as one"
)
_FEWEST_TOKENS = 16


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer with an end token and a pad token."""

    tokenizer: Any
    """transformers' PreTrainedTokenizerBase."""
    new_token_ids: tuple[int, ...] = ()
    """Ids of tokens that the YAML added to the vocabulary."""
    notes: tuple[str, ...] = ()
    """What was chosen on the user's behalf."""


def load_tokenizer(spec: ModelSpec, *, writes: bool = True) -> LoadedTokenizer:
    """The tokenizer that the spec names, ready for training.

    Args:
        spec: Names it.
        writes: It is for a model that writes, which needs an end token.

    Raises:
        UserError: it cannot be loaded, or has no end token.
    """
    name, role, revision = spec.base_model, "base_model", spec.revision_of_model
    if spec.tokenizer_config:
        name, role = spec.tokenizer_config, "tokenizer_config"
        revision = revision if name == spec.base_model else None
    is_mistral = spec.tokenizer_use_mistral_common
    tokenizer = read_tokenizer(name, role, revision, is_mistral=is_mistral)
    known = dict(tokenizer.get_vocab())
    roles = {
        key: value
        for key, value in spec.special_tokens.model_dump().items()
        if value and key != "additional_special_tokens"
    }
    tokenizer.add_special_tokens(roles)
    tokenizer.add_tokens(list(spec.special_tokens.additional_special_tokens), special_tokens=True)
    tokenizer.add_tokens(list(spec.tokens))
    if writes:
        _require_end_token(tokenizer, f"{role}: {name}")
    notes = _settle_pad_token(tokenizer)
    if is_mistral:
        notes.append(_AS_MISTRAL)
    new = sorted(set(tokenizer.get_vocab().values()) - set(known.values()))
    if new:
        names = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(new))
        notes.append(f"new tokens, whose embeddings are trained: {names}")
    return LoadedTokenizer(tokenizer, tuple(new), tuple(notes))


def load_saved_tokenizer(folder: Path) -> LoadedTokenizer:
    """The tokenizer that a run left in its folder; its new tokens are in the vocabulary by then."""
    tokenizer = read_tokenizer(str(folder), "run", None)
    return LoadedTokenizer(tokenizer, (), tuple(_settle_pad_token(tokenizer)))


def read_tokenizer(
    name: str, role: str, revision: str | None, *, is_mistral: bool = False
) -> PreTrainedTokenizerBase:
    """A tokenizer as it stands in a folder or on the hub.

    Args:
        name: The folder, or the hub's name.
        role: The key that names it.
        revision: Branch, tag or commit on the hub.
        is_mistral: Texts are split as mistral-common does, where an old tokenizer.json of Mistral's
            splits them otherwise.

    Raises:
        UserError: it cannot be loaded, or a file of the folder lies elsewhere.
    """
    if (folder := Path(name).expanduser()).is_dir():
        require_own_files(folder, f"{role}: {name}")
    as_mistral = {"fix_mistral_regex": True} if is_mistral else {}
    with explained(name, role, revision):
        tokenizer = AutoTokenizer.from_pretrained(
            str(Path(name).expanduser()) if name.startswith("~") else name,
            revision=revision or "main",
            trust_remote_code=False,
            mistral_format=False,
            **as_mistral,
        )
    if len(tokenizer) < _FEWEST_TOKENS:  # what transformers makes where the files are missing
        what = f"has no tokenizer: no vocabulary is there, only {len(tokenizer)} tokens"
        fix = "name one with tokenizer_config; tokenizer.json is the format to look for"
        raise UserError(Problem(what, f"{role}: {name}", fix=fix))
    settle_tekken(tokenizer)
    return tokenizer


def _require_end_token(tokenizer: Any, where: str) -> None:
    if tokenizer.eos_token_id is None:
        raise UserError(
            Problem(
                "the tokenizer has no end token (eos_token): the model could never learn to stop",
                where,
                fix="name one of its tokens, or a new one:\nspecial_tokens:\n  eos_token: </s>",
            )
        )


def _settle_pad_token(tokenizer: Any) -> list[str]:
    """Sets a pad token where there is none; says which."""
    if tokenizer.pad_token_id is not None:
        return []
    has_own_unk = tokenizer.unk_token is not None and tokenizer.unk_token != tokenizer.eos_token
    tokenizer.pad_token = tokenizer.unk_token if has_own_unk else tokenizer.eos_token
    source = "unk" if has_own_unk else "eos"
    return [
        f"no pad token: padding with the {source} token {tokenizer.pad_token!r}"
        + ("" if has_own_unk else "; end tokens stay trained, labels are masked by position")
    ]

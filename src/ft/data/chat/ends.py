"""The tokens that end a turn: which are known, and which one a template writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ft.data.chat.labels import END_TOKEN_REACH
from ft.data.chat.templates import Template
from ft.data.segments import EndRule, EndTokens
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import DatasetSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """The token that ends the model's turn in a template.

    Attributes:
        token: As text; empty if the template writes nothing behind a turn.
        is_known: It is the eos token or one of `eot_tokens`, so that it can be trained.
        rule: Which of its kind are trained.
    """

    token: str
    is_known: bool
    rule: EndRule


def end_tokens(
    spec: DatasetSpec,
    names: Sequence[str],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[EndTokens, ...]:
    """The eos token and those of `eot_tokens` that the template writes.

    Several data sets share `eot_tokens`, so a token that another template writes is no mistake.

    Args:
        spec: The entry of `datasets:`.
        names: `eot_tokens`.
        template: What writes the turns.
        tokenizer: The model's.

    Raises:
        UserError: One is several tokens, or two rules hold for one token.
    """
    rule = spec.train_on_eot or spec.train_on_eos
    eos = frozenset({tokenizer.eos_token_id} - {None})
    if not names or list(names) == [tokenizer.eos_token]:
        eots = eos
    else:
        written = [name for name in names if name in template.text]
        if tokenizer.eos_token in written and rule != spec.train_on_eos:
            raise UserError(
                Problem(
                    f"train_on_eos is {spec.train_on_eos} and train_on_eot is {rule}, but "
                    f"{tokenizer.eos_token} is the eos token and one of eot_tokens",
                    fix="leave train_on_eot out, or the eos token out of eot_tokens",
                )
            )
        eots = frozenset(_single_id(name, tokenizer) for name in written)
    kinds = (EndTokens(eots, rule), EndTokens(eos, spec.train_on_eos))
    return tuple(dict.fromkeys(kind for kind in kinds if kind.ids))


def _single_id(name: str, tokenizer: PreTrainedTokenizerBase) -> int:
    ids: list[int] = tokenizer.encode(name, add_special_tokens=False)
    if len(ids) != 1:
        raise UserError(
            Problem(
                f"eot_tokens: {name!r} is {len(ids)} tokens, not one",
                fix=f"add it to the vocabulary: tokens: [{name!r}]",
            )
        )
    return ids[0]


def end_of_turn(
    behind: str, ends: Sequence[EndTokens], tokenizer: PreTrainedTokenizerBase, rule: EndRule
) -> EndOfTurn:
    """What ends a turn.

    Args:
        behind: What the template writes behind the turn's content.
        ends: The end tokens that are known.
        tokenizer: The model's.
        rule: Of an end token that is not known.
    """
    ids: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"]
    for at in ids[: END_TOKEN_REACH + 1]:
        for kind in ends:
            if at in kind.ids:
                return EndOfTurn(str(tokenizer.convert_ids_to_tokens(at)), True, kind.rule)
    added = tokenizer.added_tokens_decoder
    special = next((str(added[at]) for at in ids if at in added), None)
    words = behind.split()
    return EndOfTurn(special or (words[0] if words else ""), False, rule)

"""What a chat template does that nobody asked for: ends that are not trained, turns of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ft.data.chat import CHAT_TYPE, ChatLayout
from ft.runtime.errors import Problem

if TYPE_CHECKING:
    from ft.data.layout import Strategy
    from ft.data.report import DatasetReport
    from ft.spec.runspec import DatasetSpec


def lacks_ends(entry: DatasetSpec, report: DatasetReport) -> bool:
    """Most conversations of a data set train no end, and no key of its own asks for that."""
    keeps_default = entry.train_on_eos in ("turn", "all") and entry.train_on_eot is None
    is_chat = entry.type == CHAT_TYPE
    return is_chat and keeps_default and 2 * report.num_without_end > report.num_kept


def untrained_end(
    entry: DatasetSpec, report: DatasetReport, layout: Strategy, eot_tokens: Sequence[str]
) -> Problem | None:
    """The fault of a template whose turns end with a token that no key says is an end.

    Only the template's default is a fault; who sets `eot_tokens`, or which ends are trained, has
    said what is wanted, and is warned by the report's notes.

    Args:
        entry: The entry of `datasets:`.
        report: What became of its records.
        layout: What its `type:` asks for.
        eot_tokens: As the YAML gives them.
    """
    if eot_tokens or not isinstance(layout, ChatLayout) or not lacks_ends(entry, report):
        return None
    token = layout.untrained_end
    if token is None:
        return None
    eos = layout.tokenizer.eos_token
    ends_with = f"with {token!r}" if token else "with no token at all"
    return Problem(
        f"no end token is trained in {report.num_without_end:,} of {report.num_kept:,} records: "
        f"the chat template ends turns {ends_with}, not with the eos token {eos!r}, so the model "
        "would never learn to stop",
        where=entry.path,
        fix=_fix_of_end(token, layout),
    )


def _fix_of_end(token: str, layout: ChatLayout) -> str:
    if not token:
        return f"use a chat template that writes {layout.tokenizer.eos_token!r} behind an answer"
    if len(layout.tokenizer.encode(token, add_special_tokens=False)) == 1:
        return f"say that it ends a turn:\neot_tokens: [{token!r}]"
    return (
        "make it one token, and say that it ends a turn:\n"
        f"tokens: [{token!r}]\neot_tokens: [{token!r}]"
    )


def unwritten_ends(layouts: Iterable[Strategy], eot_tokens: Sequence[str]) -> list[str]:
    """The tokens of `eot_tokens` that nothing comes of: no chat template writes them.

    Args:
        layouts: What the `type:` of each of `datasets:` asks for; their templates share the key.
        eot_tokens: As the YAML gives them.
    """
    chats = [layout for layout in layouts if isinstance(layout, ChatLayout)]
    texts = [layout.template.text for layout in chats]
    eos = {layout.tokenizer.eos_token for layout in chats}  # written by its role, as a rule
    return [
        name
        for name in eot_tokens
        if chats and name not in eos and not any(name in text for text in texts)
    ]


def foreign_templates(sets: Iterable[tuple[DatasetSpec, Strategy]]) -> Iterator[str]:
    """A warning for each data set whose template writes turns otherwise than the tokenizer's."""
    for entry, layout in sets:
        if isinstance(layout, ChatLayout) and layout.differs_from_tokenizers_own:
            yield (
                f"{entry.path}: the YAML's chat template writes turns otherwise than the "
                "tokenizer's own: whatever serves the model must be given the YAML's"
            )

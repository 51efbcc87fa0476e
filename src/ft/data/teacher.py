"""What a teacher thought of a record's tokens: its most likely tokens at each place, as stored.

    field_of_record: one entry a token that is trained, or one for every token of the record
        [[id, logprob], ...]                              our own
        [{"token": "token_id:ID", "logprob": x}, ...]     as vLLM writes it
        [logprob, ...] with the ids in target_token_ids   axolotl's newer form

The number of entries must be that of the tokens, so that a file made with another tokenizer or
layout is told and not learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ft.data.segments import IGNORE_INDEX, RecordError, Tokens
from ft.data.tokenized import IntArray

LARGEST_TOP_K = 255
_IDS_FIELD = "target_token_ids"
_PREFIX = "token_id:"


@dataclass(frozen=True, slots=True)
class TeacherTokens:
    """Ragged: t tokens, e entries.

    Attributes:
        counts: uint8 [t]: entries of each token, 0 where the teacher says nothing.
        ids: int32 [e].
        logprobs: float32 [e], at temperature 1 up to a constant for each token.
    """

    counts: npt.NDArray[np.uint8]
    ids: IntArray
    logprobs: npt.NDArray[np.float32]

    def cut(self, num_tokens: int) -> TeacherTokens:
        """Those of the first tokens."""
        num_entries = int(self.counts[:num_tokens].sum())
        return TeacherTokens(
            self.counts[:num_tokens], self.ids[:num_entries], self.logprobs[:num_entries]
        )


def no_teacher(num_tokens: int) -> TeacherTokens:
    """Of tokens of which a teacher said nothing."""
    empty = np.empty(0)
    return TeacherTokens(
        np.zeros(num_tokens, np.uint8), empty.astype(np.int32), empty.astype(np.float32)
    )


def joined(parts: Sequence[TeacherTokens]) -> TeacherTokens:
    """End to end."""
    return TeacherTokens(
        np.concatenate([each.counts for each in parts]),
        np.concatenate([each.ids for each in parts]),
        np.concatenate([each.logprobs for each in parts]),
    )


def teacher_tokens(
    record: Mapping[str, Any],
    rows: Sequence[Tokens],
    field: str,
    *,
    temperature: float,
    vocabulary_size: int,
) -> TeacherTokens:
    """What the teacher said of a record's row.

    Args:
        record: Its fields.
        rows: What the tokenizer made of it.
        field: `logprobs_field`.
        temperature: At which the logprobs were taken.
        vocabulary_size: Ids must stay below it.

    Raises:
        RecordError: They are missing, do not fit the tokens, or are no logprobs.
    """
    entries = record.get(field)
    if not isinstance(entries, list):
        raise RecordError(f"field {field!r} holds no logprobs", type(entries).__name__)
    if len(rows) != 1:
        raise RecordError("logprobs of a record that is cut into rows")
    labels = rows[0].labels
    trained = [place for place, label in enumerate(labels) if label != IGNORE_INDEX]
    places = range(len(labels)) if len(entries) == len(labels) else trained
    if len(entries) != len(places):
        raise RecordError(
            f"field {field!r} does not fit the tokens",
            f"{len(entries)} entries for {len(trained)} trained of {len(labels)} tokens: "
            "made with another tokenizer or layout?",
        )
    ids_of = record.get(_IDS_FIELD)
    counts = np.zeros(len(labels), np.uint8)
    ids: list[int] = []
    logprobs: list[float] = []
    for number, (place, entry) in enumerate(zip(places, entries, strict=True)):
        if labels[place] == IGNORE_INDEX or not entry:
            continue
        ids_here = ids_of[number] if isinstance(ids_of, list) and number < len(ids_of) else None
        pairs = list(_pairs(entry, ids_here))[:LARGEST_TOP_K]
        counts[place] = len(pairs)
        for token, logprob in pairs:
            if not (0 <= token < vocabulary_size and math.isfinite(logprob)):
                raise RecordError("unsound logprobs", f"token {token}: {logprob}")
            ids.append(token)
            logprobs.append(logprob * temperature)
    return TeacherTokens(counts, np.array(ids, np.int32), np.array(logprobs, np.float32))


def _pairs(entry: Any, ids: Any) -> Iterable[tuple[int, float]]:
    """Ids and logprobs of one token's entry."""
    try:
        for position, each in enumerate(entry):
            if isinstance(each, Mapping):
                yield int(str(each["token"]).removeprefix(_PREFIX)), float(each["logprob"])
            elif isinstance(each, list | tuple):
                token, logprob = each
                yield _whole(token), float(logprob)
            else:
                yield _whole(ids[position]), float(each)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RecordError("unsound logprobs", f"{entry!r}"[:200]) from error


def _whole(token: Any) -> int:
    if int(token) != token:
        raise ValueError(f"{token!r} is no token's id")
    return int(token)

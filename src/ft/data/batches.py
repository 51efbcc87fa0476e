"""From rows to what a forward pass gets.

A row is a record, or several of them end to end (`join`: a pack). Two layouts, same numbers:

    padded [B, T]                    flat [1, T]  (no pad tokens; attention by cu_seq_lens)
      a a a a a a                      a a a a a a b b b c c c c
      b b b - - -                      0 1 2 3 4 5 0 1 2 0 1 2 3   position_ids
      c c c c - -                      0           6     9       13  cu_seq_lens

A padded batch with a pack in it has ``position_ids`` that start anew at each record, and no
attention mask: transformers then keeps the records apart by the positions. A mask beside them, even
one of ones, would switch that off without a word. Pad tokens are one more record at the row's end.

      a a a b b c                      0 1 2 0 1 0   position_ids
      d d d d - -                      0 1 2 3 0 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ft.data.segments import IGNORE_INDEX
from ft.data.values import WEIGHT, Values, flat_values, join_values, padded_values


class TokenRow(Protocol):
    """What a batch needs of an example: int arrays of equal length."""

    @property
    def input_ids(self) -> npt.NDArray[np.int32]: ...  # noqa: D102
    @property
    def labels(self) -> npt.NDArray[np.int32]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Records end to end in one row.

    Attributes:
        input_ids: int32 [T].
        labels: int32 [T]; a record's first is ignored, as no other record predicts it.
        record_lengths: Tokens of each record.
        values: What else is known of each token, if anything.
    """

    input_ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    record_lengths: tuple[int, ...]
    values: Values = field(default_factory=dict)


def join(records: Sequence[TokenRow]) -> TokenRow:
    """The records as one row; a single one is a row by itself."""
    if len(records) == 1:
        return records[0]
    lengths = tuple(len(record.input_ids) for record in records)
    labels = np.concatenate([record.labels for record in records])
    labels[np.cumsum((0, *lengths[:-1]))] = IGNORE_INDEX
    input_ids = np.concatenate([record.input_ids for record in records])
    return PackedRow(input_ids, labels, lengths, join_values(records))


def record_lengths(row: TokenRow) -> tuple[int, ...]:
    """Tokens of each record in the row."""
    return row.record_lengths if isinstance(row, PackedRow) else (len(row.input_ids),)


@dataclass(frozen=True)
class Batch:
    """One forward pass."""

    inputs: dict[str, Any]
    """Keyword arguments of the model's forward."""
    targets: Tensor
    """int64 [*, K], aligned with the logits [*, K, V] that these inputs give; -100 is ignored."""
    num_tokens: int
    """Tokens of records, pad tokens not counted."""
    values: dict[str, Tensor] = field(default_factory=dict)
    """[*, K, ...] by name: what else is known of the tokens that are predicted."""

    def weight_sum(self) -> Tensor:
        """What the batch counts in the mean: its trained tokens, or the sum of their weights."""
        is_trained = self.targets != IGNORE_INDEX
        weights = self.values.get(WEIGHT)
        return is_trained.sum() if weights is None else (weights * is_trained).sum()

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from where a GPU fetches it beside its work."""
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = [value for value in self.inputs.values() if isinstance(value, Tensor)]
        changed = {id(tensor): change(tensor) for tensor in tensors}  # each once
        inputs = {name: changed.get(id(value), value) for name, value in self.inputs.items()}
        values = {name: change(value) for name, value in self.values.items()}
        return Batch(inputs, change(self.targets), self.num_tokens, values)


class Layout(Protocol):
    """How rows become forward passes."""

    def cut(self, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
        """Positions of the rows of each forward pass, in order; ``lengths`` in tokens."""
        ...

    def batch(self, rows: Sequence[TokenRow]) -> Batch:
        """One forward pass."""
        ...


@dataclass(frozen=True)
class Padded:
    """``batch_size`` rows a pass, padded to the longest of them; records or packs."""

    pad_token_id: int
    num_leading_logits: int = 0
    """Positions that the model puts before each row, and gives logits for."""
    max_rows: int | None = None
    """Of a pass, where memory allows no more."""

    def cut(self, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
        """By number."""
        batch_size = min(batch_size, self.max_rows or batch_size)
        positions = list(range(len(lengths)))
        return [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]

    def batch(self, rows: Sequence[TokenRow]) -> Batch:
        """One padded forward pass."""
        return padded_batch(rows, self.pad_token_id, self.num_leading_logits)


@dataclass(frozen=True)
class Flat:
    """As many rows a pass as ``batch_size`` rows of full length would have tokens.

    The memory is that of the largest batch that the config allows anyhow; short records share a
    pass, where padding would have spent the same room on nothing. Gradients are the same however an
    optimizer step is cut.
    """

    sequence_len: int
    pass_tokens: int | None = None
    """Room of a pass, where memory allows another than that: less, or more for free."""

    def cut(self, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
        """By tokens; ``batch_size`` rows fit into the usual room by definition."""
        room = self.pass_tokens or batch_size * self.sequence_len
        batches: list[list[int]] = []
        num_tokens = 0
        for position, length in enumerate(lengths):
            if not batches or num_tokens + length > room:
                batches.append([])
                num_tokens = 0
            batches[-1].append(position)
            num_tokens += length
        return batches

    def batch(self, rows: Sequence[TokenRow]) -> Batch:
        """One flat forward pass."""
        return flat_batch(rows)


def padded_batch(rows: Sequence[TokenRow], pad_token_id: int, num_leading_logits: int = 0) -> Batch:
    """Rows padded on the right to the longest; logits only at columns where some row is trained."""
    width = max(len(row.input_ids) for row in rows)
    input_ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    targets = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = row.input_ids
        targets[i, : length - 1] = row.labels[1:]
    kept = np.flatnonzero((targets != IGNORE_INDEX).any(axis=0))
    inputs = {
        "input_ids": torch.from_numpy(input_ids),
        **_what_tells_rows_apart(rows, width),
        "logits_to_keep": torch.from_numpy(kept + num_leading_logits),
    }
    num_tokens = sum(len(row.input_ids) for row in rows)
    values = padded_values(rows, width, kept)
    return Batch(inputs, torch.from_numpy(targets[:, kept]), num_tokens, values)


def _what_tells_rows_apart(rows: Sequence[TokenRow], width: int) -> dict[str, Tensor]:
    """A mask of the pad tokens; with packs positions instead, never both."""
    lengths = [record_lengths(row) for row in rows]
    if any(len(each) > 1 for each in lengths):
        positions = [_positions((*each, width - sum(each))) for each in lengths]
        return {"position_ids": torch.from_numpy(np.stack(positions))}
    mask = np.arange(width) < np.array(lengths)
    return {"attention_mask": torch.from_numpy(mask.astype(np.int64))}


def flat_batch(rows: Sequence[TokenRow]) -> Batch:
    """Records end to end in one row, kept apart by cu_seq_lens; logits where one is trained."""
    lengths = [length for row in rows for length in record_lengths(row)]
    targets = np.concatenate([np.append(row.labels[1:], IGNORE_INDEX) for row in rows])
    kept = np.flatnonzero(targets != IGNORE_INDEX)
    cu_seq_lens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    input_ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    inputs = {
        "input_ids": torch.from_numpy(input_ids)[None],
        "position_ids": torch.from_numpy(_positions(lengths))[None],
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "logits_to_keep": torch.from_numpy(kept),
    }
    kept_targets = torch.from_numpy(targets[kept].astype(np.int64))[None]
    return Batch(inputs, kept_targets, len(input_ids), flat_values(rows, kept))


def _positions(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    """0 1 2 0 1 0 1 2 3 for records of 3, 2 and 4 tokens."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)

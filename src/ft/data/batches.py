"""From examples to what a forward pass gets: which records each step holds, and in which layout.

The records of every optimizer step follow from (seed, epoch, step) alone, so a resumed run needs no
state of a sampler, and the records of a step do not depend on how it is cut into micro-batches or
dealt to processes.

Two layouts, same numbers:

    padded [B, T]                    flat [1, T]  (no pad tokens; attention by cu_seq_lens)
      a a a a a a                      a a a a a a b b b c c c c
      b b b - - -                      0 1 2 3 4 5 0 1 2 0 1 2 3   position_ids
      c c c c - -                      0           6     9       13  cu_seq_lens
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ft.data.segments import IGNORE_INDEX


class TokenRow(Protocol):
    """What a batch needs of an example: int arrays of equal length."""

    @property
    def input_ids(self) -> npt.NDArray[np.int32]: ...  # noqa: D102
    @property
    def labels(self) -> npt.NDArray[np.int32]: ...  # noqa: D102


@dataclass(frozen=True)
class Batch:
    """One forward pass."""

    inputs: dict[str, Any]
    """Keyword arguments of the model's forward."""
    targets: Tensor
    """int64 [*, K], aligned with the logits [*, K, V] that these inputs give; -100 is ignored."""
    num_tokens: int
    """Tokens of records, pad tokens not counted."""

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        inputs = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        return Batch(inputs, self.targets.to(device, non_blocking=True), self.num_tokens)


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
    """``batch_size`` rows a pass, padded to the longest of them."""

    pad_token_id: int

    def cut(self, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
        """By number."""
        positions = list(range(len(lengths)))
        return [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]

    def batch(self, rows: Sequence[TokenRow]) -> Batch:
        """One padded forward pass."""
        return padded_batch(rows, self.pad_token_id)


@dataclass(frozen=True)
class Flat:
    """As many rows a pass as ``batch_size`` rows of full length would have tokens.

    The memory is that of the largest batch that the config allows anyhow; short records share a
    pass, where padding would have spent the same room on nothing. Gradients are the same however an
    optimizer step is cut.
    """

    sequence_len: int

    def cut(self, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
        """By tokens; a pass always takes ``batch_size`` rows, which fit by definition."""
        room = batch_size * self.sequence_len
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


def padded_batch(rows: Sequence[TokenRow], pad_token_id: int) -> Batch:
    """Rows padded on the right to the longest; logits only at columns where some row is trained."""
    width = max(len(row.input_ids) for row in rows)
    input_ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), width), dtype=np.int64)
    targets = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[i, :length] = row.input_ids
        attention_mask[i, :length] = 1
        targets[i, : length - 1] = row.labels[1:]
    kept = np.flatnonzero((targets != IGNORE_INDEX).any(axis=0))
    inputs = {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "logits_to_keep": torch.from_numpy(kept),
    }
    return Batch(inputs, torch.from_numpy(targets[:, kept]), int(attention_mask.sum()))


def flat_batch(rows: Sequence[TokenRow]) -> Batch:
    """Rows end to end in one sequence, kept apart by cu_seq_lens; logits where a row is trained."""
    lengths = [len(row.input_ids) for row in rows]
    targets = np.concatenate([np.append(row.labels[1:], IGNORE_INDEX) for row in rows])
    kept = np.flatnonzero(targets != IGNORE_INDEX)
    cu_seq_lens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    input_ids = np.concatenate([row.input_ids for row in rows]).astype(np.int64)
    position_ids = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
    inputs = {
        "input_ids": torch.from_numpy(input_ids)[None],
        "position_ids": torch.from_numpy(position_ids)[None],
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "logits_to_keep": torch.from_numpy(kept),
    }
    return Batch(inputs, torch.from_numpy(targets[kept].astype(np.int64))[None], len(input_ids))


@dataclass(frozen=True)
class StepPlan:
    """Which records each optimizer step trains on."""

    num_records: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    num_processes: int
    seed: int

    @property
    def records_per_step(self) -> int:
        """Records in an optimizer step, over all processes; an epoch's last step may have fewer."""
        return self.micro_batch_size * self.gradient_accumulation_steps * self.num_processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        return math.ceil(self.num_records / self.records_per_step)

    def records_of(self, step: int) -> list[int]:
        """Record numbers of the optimizer step (counted from 0 over all epochs), in order."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_records)
        start = step_in_epoch * self.records_per_step
        return [int(i) for i in order[start : start + self.records_per_step]]

    def share_of(self, records: Sequence[int], process_index: int) -> list[int]:
        """The records of a step that a process trains on: they are dealt out in turn."""
        return list(records[process_index :: self.num_processes])

"""From labeled rows to what a forward pass gets: padded to the longest, one target a record.

    ids [B, T]                 targets: one of several  int64 [B]     its number
      a a a a a                         any number      int64 [B, L]  1 where the label is there
      b b b - -                         a number        int32 [B]     the bits of an fp32

`IGNORE_INDEX` in any of them is no target: a process that has no record left makes such a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ft.data.batches import Batch, TokenRow
from ft.data.classification.targets import as_indicators, targets_of
from ft.data.tokenized import WEIGHT
from ft.spec.classification import Classification


@dataclass(frozen=True)
class LabeledBatches:
    """``batch_size`` records a pass, padded on the right to the longest of them.

    Attributes:
        task: The labels that there are.
        pad_token_id: Fills up shorter records; masked.
        separator_id: Behind the first of these a second text begins, for a model that tells the two
            apart by `token_type_ids`; None for any other model.
        weights: What a record of each label counts; None: all alike.
    """

    task: Classification
    pad_token_id: int
    separator_id: int | None = None
    weights: tuple[float, ...] | None = None

    def cut(self, lengths: Sequence[int], batch_size: int) -> list[list[int]]:
        """By number."""
        positions = list(range(len(lengths)))
        return [positions[i : i + batch_size] for i in range(0, len(positions), batch_size)]

    def batch(self, rows: Sequence[TokenRow]) -> Batch:
        """One forward pass, with the targets of its records."""
        inputs = self.inputs([row.input_ids.tolist() for row in rows])
        targets = torch.from_numpy(np.stack([self._target(row) for row in rows]))
        shares = np.full(targets.shape, 1 / (targets[0].numel() or 1))  # together 1 a record
        if targets.ndim == 1:
            shares = np.array([self.weight(row) for row in rows])
        values = {WEIGHT: torch.from_numpy(shares).float()}
        return Batch(inputs, targets, sum(len(row.input_ids) for row in rows), values)

    def weight(self, row: TokenRow) -> float:
        """What the record counts in the mean: 1, or the weight of its label."""
        if self.weights is None or self.task.is_multi_label:
            return 1.0
        return self.weights[int(targets_of(row.labels)[0])]

    def inputs(self, input_ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """What the model's forward takes for some texts; int64 [B, T] each."""
        lengths = np.array([[len(ids)] for ids in input_ids])
        padded = np.full((len(input_ids), int(lengths.max())), self.pad_token_id, np.int64)
        for i, ids in enumerate(input_ids):
            padded[i, : len(ids)] = ids
        mask = np.arange(padded.shape[1]) < lengths
        arrays = {"input_ids": padded, "attention_mask": mask.astype(np.int64)}
        if self.separator_id is not None:
            arrays["token_type_ids"] = _second_texts(padded, self.separator_id) * mask
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _target(self, row: TokenRow) -> np.typing.NDArray[np.int64] | np.typing.NDArray[np.int32]:
        numbers = targets_of(row.labels)
        if self.task.is_multi_label:
            return as_indicators(numbers, len(self.task.labels))
        number = numbers[:1] if self.task.is_regression else numbers[:1].astype(np.int64)
        return number.reshape(())


def _second_texts(
    ids: np.typing.NDArray[np.int64], separator_id: int
) -> np.typing.NDArray[np.int64]:
    """1 at the tokens behind the first separator, 0 before: [B, T]."""
    is_separator = ids == separator_id
    num_before = np.cumsum(is_separator, axis=1) - is_separator
    second: np.typing.NDArray[np.int64] = (num_before > 0).astype(np.int64)
    return second

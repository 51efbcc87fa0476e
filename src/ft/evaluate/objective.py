"""What is minimized: one small object that training and evaluation share.

It says what a batch holds and what its loss is. It stands here, below the loop, because evaluation
runs inside the loop and must measure the very same thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ft.data.batches import Batch, Layout, TokenRow
from ft.data.segments import IGNORE_INDEX


class Objective(Protocol):
    """One way to learn from records."""

    @property
    def layout(self) -> Layout:
        """How its rows become forward passes."""
        ...

    def weight(self, row: TokenRow) -> int:
        """What the row counts in the mean: its trained tokens."""
        ...

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss, summed over the batch: fp32 scalar; divide by the sum of weights."""
        ...


@dataclass(frozen=True)
class SupervisedTuning:
    """Next-token cross-entropy at trained positions."""

    layout: Layout

    def weight(self, row: TokenRow) -> int:
        """Trained tokens; the first token of a record is never predicted."""
        return int(np.count_nonzero(row.labels[1:] != IGNORE_INDEX))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the batch's trained tokens: fp32 scalar."""
        logits = model(**batch.inputs, use_cache=False).logits  # [*, K, V]
        return cross_entropy(
            logits.float().flatten(0, -2),
            batch.targets.flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        )


@torch.no_grad()
def held_out_loss(
    objective: Objective,
    model: nn.Module,
    rows: Sequence[TokenRow],
    *,
    batch_size: int,
    device: torch.device,
) -> float:
    """Mean loss a trained token over the rows, longest first so that memory peaks at once.

    The model is left in the mode it was in.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    cuts = objective.layout.cut([len(rows[i].input_ids) for i in order], batch_size)
    total = torch.zeros((), dtype=torch.float64)
    try:
        for cut in cuts:
            batch = objective.layout.batch([rows[order[position]] for position in cut])
            total += objective.loss_sum(model, batch.to(device)).cpu()
    finally:
        model.train(was_training)
    return float(total) / sum(objective.weight(row) for row in rows)

"""Objectives whose tokens do not all count alike, or are learned from more than their label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ft.data.batches import Batch, Layout, TokenRow
from ft.data.segments import IGNORE_INDEX
from ft.data.values import WEIGHT, values_of
from ft.evaluate.objective import router_loss


class TokenLosses(Protocol):
    """The loss of each token by itself."""

    def __call__(
        self,
        logits_KV: Tensor,
        targets_K: Tensor,
        values: Mapping[str, Tensor],
        *,
        is_training: bool,
    ) -> Tensor:
        """fp32 [K], 0 where the target is ignored.

        Args:
            logits_KV: fp32.
            targets_K: int64; -100 is ignored.
            values: [K, ...] by name, what else is known of the tokens.
            is_training: Held-out loss leaves out what only helps to learn.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Of the true token."""

    label_smoothing: float = 0.0

    def __call__(
        self,
        logits_KV: Tensor,
        targets_K: Tensor,
        values: Mapping[str, Tensor],
        *,
        is_training: bool,
    ) -> Tensor:
        """As `TokenLosses` says."""
        return cross_entropy(
            logits_KV,
            targets_K,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing if is_training else 0.0,
        )


@dataclass(frozen=True)
class PerTokenTuning:
    """Losses token by token, each times the weight of its record.

    The mean is over weights: a record of weight 2 counts as if it were there twice.
    """

    layout: Layout
    losses: TokenLosses
    router_loss_scale: float | None = None
    """Of the router's auxiliary loss, as in `SupervisedTuning`."""

    def weight(self, row: TokenRow) -> float:
        """The weights of the trained tokens; the first token of a record is never predicted."""
        is_trained = row.labels[1:] != IGNORE_INDEX
        weights = values_of(row).get(WEIGHT)
        if weights is None:
            return int(np.count_nonzero(is_trained))
        return float(weights[1:][is_trained].sum(dtype=np.float64))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The losses, each times its weight, summed: fp32 scalar."""
        output = model(**batch.inputs, use_cache=False)
        values = {name: value.flatten(0, 1) for name, value in batch.values.items()}
        losses = self.losses(
            output.logits.float().flatten(0, -2),
            batch.targets.flatten(),
            values,
            is_training=model.training,
        )
        loss_sum = (losses * values[WEIGHT]).sum() if WEIGHT in values else losses.sum()
        if self.router_loss_scale is None:
            return loss_sum
        return loss_sum + self.router_loss_scale * batch.weight_sum() * router_loss(output).float()

"""NEFTune: noise on the embeddings while it trains (arXiv 2310.05914).

Each value of an embedding gets uniform(-1, 1) * alpha / sqrt(L * d) added, where d is the width of
the embeddings and L the tokens of the record. L is the record's own length, as in the paper,
however records are padded, packed or laid end to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ft.data.batches import Batch
from ft.evaluate.objective import Wrapping


@dataclass(frozen=True)
class WithEmbeddingNoise(Wrapping):
    """Another objective, trained with noise on the embeddings; measured without.

    The noise is drawn from torch's generator, which the loop seeds with the counters of each pass:
    a resumed run draws the same.
    """

    embedding: nn.Module
    """What turns ids into vectors; the noise is added to what it returns."""
    alpha: float
    """`neftune_noise_alpha`; the paper tries 5, 10 and 15."""

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The objective's loss; with noise if the model is in training mode."""
        if not model.training:
            return self.objective.loss_sum(model, batch)
        lengths = record_lengths_by_token(batch.inputs)

        def add_noise(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            return embedded + _noise(embedded, lengths, self.alpha)

        with self.embedding.register_forward_hook(add_noise):
            return self.objective.loss_sum(model, batch)


def _noise(embedded_BTD: Tensor, lengths_BT: Tensor, alpha: float) -> Tensor:
    reach = alpha / (lengths_BT * embedded_BTD.shape[-1]).sqrt()
    noise = torch.empty_like(embedded_BTD, dtype=torch.float32).uniform_(-1, 1)
    return (noise * reach[..., None]).to(embedded_BTD.dtype)


def record_lengths_by_token(inputs: Mapping[str, Any]) -> Tensor:
    """For each token of a batch, how many tokens its record has.

    Args:
        inputs: Those of a `Batch`: input_ids [B, T], and position_ids that start anew at each
            record, or an attention_mask of the pad tokens.

    Returns:
        fp32 [B, T]; a pad token belongs to a record of its row, or to one of pad tokens.
    """
    ids_BT: Tensor = inputs["input_ids"]
    positions: Tensor | None = inputs.get("position_ids")
    if positions is None:
        mask_BT: Tensor = inputs["attention_mask"]
        return mask_BT.sum(dim=1, keepdim=True).float().expand(ids_BT.shape)
    record_N = (positions.flatten() == 0).cumsum(0) - 1  # rows begin with a record, so none mixes
    ones_N = torch.ones(math.prod(ids_BT.shape), device=ids_BT.device)
    lengths_N = torch.zeros_like(ones_N).scatter_add_(0, record_N, ones_N)
    return lengths_N[record_N].view(ids_BT.shape)

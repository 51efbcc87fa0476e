"""Objectives whose tokens do not all count alike, or are learned from more than their label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ft.data.batches import Batch, Layout, TokenRow
from ft.data.segments import IGNORE_INDEX
from ft.data.values import TEACHER_IDS, TEACHER_LOGPROBS, WEIGHT, values_of
from ft.evaluate.objective import Objective, SupervisedTuning, router_loss
from ft.spec.runspec import DataSpec, TrainingSpec


class Scored(NamedTuple):
    """Tokens that are predicted, and what a model gave for them."""

    logits: Tensor
    """fp32 [K, V]."""
    targets: Tensor
    """int64 [K]; -100 is ignored."""
    values: Mapping[str, Tensor]
    """[K, ...] by name, what else is known of the tokens."""


class TokenLosses(Protocol):
    """The loss of each token by itself."""

    def __call__(self, scored: Scored, *, is_training: bool) -> Tensor:
        """fp32 [K], 0 where the target is ignored.

        Args:
            scored: The tokens.
            is_training: Held-out loss leaves out what only helps to learn.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Of the true token."""

    label_smoothing: float = 0.0

    def __call__(self, scored: Scored, *, is_training: bool) -> Tensor:
        """As `TokenLosses` says."""
        return cross_entropy(
            scored.logits,
            scored.targets,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing if is_training else 0.0,
        )


@dataclass(frozen=True)
class Distilled:
    """Of the true token, and of a teacher's most likely tokens (arXiv 1503.02531).

        ce_alpha * CE + kd_alpha * KL(teacher || student),

    both distributions at `temperature`; the teacher's is that of the tokens that were stored,
    scaled to sum up to 1, the student's that of the whole vocabulary, as in axolotl; there is no
    factor of temperature^2. A token of which the teacher said nothing has the first part alone.
    Held-out loss is cross-entropy.
    """

    kd_alpha: float
    ce_alpha: float
    temperature: float
    label_smoothing: float = 0.0

    def __call__(self, scored: Scored, *, is_training: bool) -> Tensor:
        """As `TokenLosses` says."""
        losses = CrossEntropy(self.label_smoothing)(scored, is_training=is_training)
        if not is_training:
            return losses
        losses = self.ce_alpha * losses
        values = scored.values
        if TEACHER_LOGPROBS not in values:
            return losses
        divergence = self._divergence(scored.logits, values[TEACHER_IDS], values[TEACHER_LOGPROBS])
        return losses + self.kd_alpha * divergence * (scored.targets != IGNORE_INDEX)

    def _divergence(self, logits_KV: Tensor, ids_KC: Tensor, logprobs_KC: Tensor) -> Tensor:
        """[K]: forward KL over each token's candidates; 0 where there are none."""
        is_candidate = logprobs_KC.isfinite()
        has_teacher = is_candidate.any(dim=-1, keepdim=True)
        scaled = (logprobs_KC / self.temperature).masked_fill(~has_teacher, 0.0)
        teacher_KC = scaled.log_softmax(dim=-1)
        student_KC = (logits_KV / self.temperature).log_softmax(dim=-1).gather(-1, ids_KC)
        difference = (teacher_KC - student_KC).masked_fill(~is_candidate, 0.0)
        return (teacher_KC.exp() * difference).sum(dim=-1)


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
        scored = Scored(output.logits.float().flatten(0, -2), batch.targets.flatten(), values)
        losses = self.losses(scored, is_training=model.training)
        loss_sum = (losses * values[WEIGHT]).sum() if WEIGHT in values else losses.sum()
        if self.router_loss_scale is None:
            return loss_sum
        return loss_sum + self.router_loss_scale * batch.weight_sum() * router_loss(output).float()


def text_objective(
    training: TrainingSpec,
    data: DataSpec,
    layout: Layout,
    router_scale: float | None,
    *,
    has_loss_head: bool,
) -> Objective:
    """What is minimized where texts are learned.

    Args:
        training: Smoothing, and whether there is a teacher.
        data: Whether records have weights.
        layout: How rows become forward passes.
        router_scale: Of a mixture's auxiliary loss.
        has_loss_head: The model can give the summed loss in place of logits.
    """
    smoothing = training.label_smoothing_factor
    losses: TokenLosses = CrossEntropy(smoothing)
    if training.kd_trainer:
        given = training.kd_ce_alpha
        ce_alpha = max(1 - training.kd_alpha, 0.0) if given is None else given
        losses = Distilled(training.kd_alpha, ce_alpha, training.kd_temperature, smoothing)
    is_weighted = any(entry.field_weight for entry in (*data.datasets, *data.test_datasets))
    if training.kd_trainer or is_weighted:
        return PerTokenTuning(layout, losses, router_scale)
    return SupervisedTuning(
        layout, router_scale, label_smoothing=smoothing, has_loss_head=has_loss_head
    )

"""What is minimized: one small object that training and evaluation share.

It says what a batch holds and what its loss is. It stands here, below the loop, because evaluation
runs inside the loop and must measure the very same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ft.data.batches import Batch, Layout, TokenRow
from ft.data.segments import IGNORE_INDEX
from ft.runtime.errors import Problem, UserError


class Objective(Protocol):
    """One way to learn from records."""

    @property
    def layout(self) -> Layout:
        """How its rows become forward passes."""
        ...

    def weight(self, row: TokenRow) -> float:
        """What the row counts in the mean: its trained tokens, or what a record of it weighs."""
        ...

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss, summed over the batch: fp32 scalar; divide by the sum of weights."""
        ...


@runtime_checkable
class MeasuresMore(Objective, Protocol):
    """An objective that can say more of held-out records than their loss."""

    def measure(
        self, model: nn.Module, rows: Sequence[TokenRow], *, batch_size: int, device: torch.device
    ) -> dict[str, Any]:
        """`eval_loss`, and what else there is, as an event holds it."""
        ...


@dataclass(frozen=True)
class SupervisedTuning:
    """Next-token cross-entropy at trained positions.

    A mixture whose config says `output_router_logits` adds its auxiliary loss, as transformers
    does: of each pass, as often as the pass has trained tokens, so that their mean counts it once.
    """

    layout: Layout
    router_loss_scale: float | None = None
    """Of the auxiliary loss, a number from 0 up; None for models without one."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the vocabulary while it trains, as transformers does;
    held-out loss is that of the true token alone."""
    has_loss_head: bool = False
    """Whether the model takes ``targets`` and gives the summed loss in place of its logits."""

    def weight(self, row: TokenRow) -> int:
        """Trained tokens; the first token of a record is never predicted."""
        return int(np.count_nonzero(row.labels[1:] != IGNORE_INDEX))

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the batch's trained tokens: fp32 scalar."""
        if self.has_loss_head and not self.label_smoothing:
            output = model(**batch.inputs, targets=batch.targets, use_cache=False)
            loss_sum: Tensor = output.logits
        else:
            output = model(**batch.inputs, use_cache=False)
            loss_sum = self._loss_of(output.logits, batch.targets, is_training=model.training)
        if self.router_loss_scale is None:
            return loss_sum
        num_trained = (batch.targets != IGNORE_INDEX).sum()
        return loss_sum + self.router_loss_scale * num_trained * router_loss(output).float()

    def _loss_of(self, logits: Tensor, targets: Tensor, *, is_training: bool) -> Tensor:
        return cross_entropy(
            logits.float().flatten(0, -2),  # [*, K, V]
            targets.flatten(),
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing if is_training else 0.0,
        )


@dataclass(frozen=True)
class Wrapping:
    """Another objective, to which something is added while it trains; all else is the other's."""

    objective: Objective

    @property
    def layout(self) -> Layout:
        """The other's."""
        return self.objective.layout

    def weight(self, row: TokenRow) -> float:
        """The other's."""
        return self.objective.weight(row)

    def measure(
        self, model: nn.Module, rows: Sequence[TokenRow], *, batch_size: int, device: torch.device
    ) -> dict[str, Any]:
        """What the other measures."""
        return held_out_figures(self.objective, model, rows, batch_size=batch_size, device=device)


@dataclass(frozen=True)
class Penalized(Wrapping):
    """Another objective, and what the adapter adds to it while it trains."""

    penalty: Callable[[], Tensor | None]
    """Added to the mean loss of a token: a scalar with a gradient; None: nothing."""

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """As often as the batch has trained tokens, so that their mean counts it once."""
        loss_sum = self.objective.loss_sum(model, batch)
        penalty = self.penalty() if model.training else None
        if penalty is None:
            return loss_sum
        return loss_sum + batch.weight_sum() * penalty.float()


def router_loss_scale(config: Any) -> float | None:
    """What a model's config asks of the auxiliary loss; None if nothing."""
    text = config.get_text_config()
    return text.router_aux_loss_coef if getattr(text, "output_router_logits", False) else None


def router_loss(output: Any) -> Tensor:
    """The auxiliary loss of a mixture's router, as the model gives it.

    Raises:
        UserError: it gives none.
    """
    loss = getattr(output, "aux_loss", None)
    if not isinstance(loss, Tensor):
        raise UserError(
            Problem(
                "output_router_logits is on, but this model has no auxiliary loss of its router",
                "overrides_of_model_config.output_router_logits",
                fix="set it to false, or remove it",
            )
        )
    return loss


def held_out_figures(
    objective: Objective,
    model: nn.Module,
    rows: Sequence[TokenRow],
    *,
    batch_size: int,
    device: torch.device,
) -> dict[str, Any]:
    """`eval_loss`, and what else the objective measures; arguments as of `held_out_loss`."""
    if isinstance(objective, MeasuresMore):
        return objective.measure(model, rows, batch_size=batch_size, device=device)
    loss = held_out_loss(objective, model, rows, batch_size=batch_size, device=device)
    return {"eval_loss": loss}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for the length of the block, then in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


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
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    cuts = objective.layout.cut([len(rows[i].input_ids) for i in order], batch_size)
    total = torch.zeros((), dtype=torch.float64)
    with evaluating(model):
        for cut in cuts:
            batch = objective.layout.batch([rows[order[position]] for position in cut])
            total += objective.loss_sum(model, batch.to(device)).cpu()
    return float(total) / sum(objective.weight(row) for row in rows)

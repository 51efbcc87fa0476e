"""Labels and numbers as an objective: what is minimized, and what is measured beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ft.data.batches import Batch, TokenRow
from ft.data.classification.batches import LabeledBatches
from ft.data.classification.targets import targets_of
from ft.data.segments import IGNORE_INDEX
from ft.data.tokenized import TokenizedSet
from ft.evaluate.label_metrics import THRESHOLD, label_figures, probabilities
from ft.evaluate.objective import evaluating
from ft.model import LoadedModel
from ft.runtime.errors import Problem, UserError
from ft.spec.classification import Classification

NUM_SHOWN = 5
"""Held-out records whose predictions every evaluation tells."""


@dataclass(frozen=True)
class LabelTuning:
    """Cross-entropy of a record's label; of several labels, the mean over them; squared error.

    Attributes:
        layout: How records become passes, and what they count; of several labels a record, what
            each label that is there counts.
        label_smoothing: One label a record: share of the target spread over all labels while it
            trains; the held-out loss is that of the true label alone.
        takes_cache: The model would keep keys and values, which nobody reads.
        text_of: Token ids as a reader sees them.
    """

    layout: LabeledBatches
    label_smoothing: float = 0.0
    takes_cache: bool = False
    text_of: Callable[[Sequence[int]], str] | None = None

    @property
    def task(self) -> Classification:
        """The labels that there are."""
        return self.layout.task

    def weight(self, row: TokenRow) -> float:
        """What the record counts in the mean: 1, or the weight of its label."""
        return self.layout.weight(row)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss, summed over records, each times its weight: fp32 scalar."""
        smoothing = self.label_smoothing if model.training else 0.0
        return self._loss_sum(self.logits(model, batch.inputs), batch.targets, smoothing)

    def logits(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """fp32 [B, L]; a regression has L = 1."""
        options = {"use_cache": False} if self.takes_cache else {}
        logits: Tensor = model(**inputs, **options).logits
        return logits.float()

    def _loss_sum(self, logits_BL: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        if self.task.is_regression:
            is_there = targets != IGNORE_INDEX
            numbers = torch.where(is_there, targets, 0).view(torch.float32)
            return (is_there * (logits_BL[:, 0] - numbers) ** 2).sum()
        asked = self.layout.weights
        weights = None if asked is None else logits_BL.new_tensor(asked)
        if self.task.is_multi_label:
            is_there = targets != IGNORE_INDEX
            losses = binary_cross_entropy_with_logits(
                logits_BL, targets.clamp_min(0).float(), pos_weight=weights, reduction="none"
            )
            return (losses * is_there).sum() / logits_BL.shape[1]
        return cross_entropy(
            logits_BL,
            targets,
            weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=smoothing,
        )

    @torch.no_grad()
    def measure(
        self,
        model: nn.Module,
        rows: Sequence[TokenRow],
        *,
        batch_size: int,
        device: torch.device,
    ) -> dict[str, Any]:
        """The held-out loss and the task's metrics, and what is told of the first few records."""
        logits, loss_sum = self._all_logits(model, rows, batch_size, device)
        predicted = probabilities(logits, self.task)
        targets = torch.cat([self.layout.batch([row]).targets for row in rows]).numpy()
        if self.task.is_regression:
            targets = targets.view(np.float32)
        return {
            "eval_loss": loss_sum / sum(self.weight(row) for row in rows),
            **label_figures(predicted, targets, self.task),
            "predictions": self._predictions(rows, predicted, targets),
        }

    def _all_logits(
        self, model: nn.Module, rows: Sequence[TokenRow], batch_size: int, device: torch.device
    ) -> tuple[np.typing.NDArray[np.float64], float]:
        """[N, L] in the rows' order, and the loss summed; the longest rows go first."""
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
        cuts = self.layout.cut([len(rows[i].input_ids) for i in order], batch_size)
        logits = np.zeros((len(rows), len(self.task.labels)))
        loss_sum = 0.0
        with evaluating(model):
            for cut in cuts:
                chosen = [order[position] for position in cut]
                batch = self.layout.batch([rows[i] for i in chosen]).to(device)
                logits_BL = self.logits(model, batch.inputs)
                loss_sum += float(self._loss_sum(logits_BL, batch.targets).double())
                logits[chosen] = logits_BL.double().cpu().numpy()
        return logits, loss_sum

    def _predictions(
        self, rows: Sequence[TokenRow], predicted: Any, targets: Any
    ) -> list[dict[str, Any]]:
        return [
            {
                "text": "" if self.text_of is None else self.text_of(rows[i].input_ids.tolist()),
                "label": shown_target(targets[i], self.task),
                **shown(predicted[i], self.task),
            }
            for i in range(min(NUM_SHOWN, len(rows)))
        ]


def shown_target(target: Any, task: Classification) -> Any:
    """A record's own label as a reader knows it: its name, names, or the number."""
    if task.is_regression:
        return float(target)
    if task.is_multi_label:
        return [name for name, is_there in zip(task.labels, target, strict=True) if is_there]
    return task.labels[int(target)]


def shown(predicted: Any, task: Classification) -> dict[str, Any]:
    """What is told of one record, as plain data.

    Args:
        predicted: [L] from `probabilities`.
        task: The labels that there are.

    Returns:
        `prediction` (a name, names, or a number), and `probabilities` by name where there are any.
    """
    if task.is_regression:
        return {"prediction": float(predicted[0])}
    by_name = dict(zip(task.labels, map(float, predicted), strict=True))
    if task.is_multi_label:
        told: Any = [name for name, share in by_name.items() if share >= THRESHOLD]
    else:
        told = max(by_name, key=lambda name: by_name[name])
    return {"prediction": told, "probabilities": by_name}


def label_tuning(
    task: Classification,
    loaded: LoadedModel,
    weights: tuple[float, ...] | None = None,
    *,
    label_smoothing: float = 0.0,
) -> LabelTuning:
    """The objective for a loaded model.

    Raises:
        UserError: labels are to be smoothed of which a record has one by itself.
    """
    if label_smoothing and (task.is_multi_label or task.is_regression):
        what = f"{task.problem_type}: only one label of several can be smoothed"
        raise UserError(Problem(what, "label_smoothing_factor", fix="remove it"))
    base = loaded.model.get_base_model() if loaded.has_adapter else loaded.model
    tokenizer = loaded.tokenizer.tokenizer
    tells_apart = getattr(base.config, "type_vocab_size", None) or 0
    return LabelTuning(
        LabeledBatches(
            task,
            tokenizer.pad_token_id,
            tokenizer.sep_token_id if tells_apart > 1 else None,
            weights,
        ),
        label_smoothing,
        takes_cache="use_cache" in inspect.signature(base.forward).parameters,
        text_of=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
    )


def class_weights(
    asked: Any, task: Classification, train: TokenizedSet
) -> tuple[float, ...] | None:
    """A weight for each label, in order.

    Args:
        asked: The key `class_weights`.
        task: The labels that there are.
        train: The records to train on, which `balanced` counts: N records of L labels, n of one of
            them, give it N / (L n) as scikit-learn does; of several labels a record, (N - n) / n.

    Raises:
        UserError: It names no label, or gives another number of weights than there are labels.
    """
    if asked is None:
        return None
    if task.is_regression:
        fix = "remove class_weights"
        raise UserError(Problem("a regression has no classes to weigh", "class_weights", fix=fix))
    if asked == "balanced":
        return _balanced(task, train)
    if isinstance(asked, Mapping):
        if unknown := sorted(set(asked) - set(task.labels)):
            fix = f"the labels are {', '.join(task.labels)}"
            raise UserError(Problem(f"no label {unknown[0]!r}", "class_weights", fix=fix))
        return tuple(float(asked.get(name, 1.0)) for name in task.labels)
    if len(asked) != len(task.labels):
        what = f"{len(asked)} weights for {len(task.labels)} labels"
        fix = f"one each, for {', '.join(task.labels)}"
        raise UserError(Problem(what, "class_weights", fix=fix))
    return tuple(map(float, asked))


def _balanced(task: Classification, train: TokenizedSet) -> tuple[float, ...]:
    num_labels = len(task.labels)
    numbers = np.concatenate([targets_of(row.labels) for row in train])
    counts = np.bincount(numbers, minlength=num_labels)[:num_labels]
    of_all = len(train) - counts if task.is_multi_label else np.full(num_labels, len(train))
    share = 1 if task.is_multi_label else num_labels
    weights = np.where(counts > 0, of_all / np.maximum(share * counts, 1), 1.0)
    return tuple(weights.tolist())

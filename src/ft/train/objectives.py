"""Which objective a run's spec asks for, and what the model needs for it."""

from __future__ import annotations

from collections.abc import Sequence

from ft.data.batches import Flat, Layout, Padded
from ft.data.feed import TrainingData
from ft.data.prompt import PromptLayout
from ft.evaluate.classify import LabelTuning, class_weights, label_tuning
from ft.evaluate.label_metrics import METRICS_OF
from ft.evaluate.noise import WithEmbeddingNoise
from ft.evaluate.objective import Objective, Penalized, Wrapping, router_loss_scale
from ft.evaluate.token_losses import text_objective
from ft.model import Head, LoadedModel
from ft.spec import RunSpec
from ft.spec.classification import Classification
from ft.train.apart import require_records_apart
from ft.train.best import BestBy
from ft.train.planning import RunPlan, layout_of


def task_of(layouts: Sequence[PromptLayout]) -> Classification | None:
    """The labels that the data sets share; None where texts are learned."""
    labels = next((layout.labels for layout in layouts), None)
    return None if labels is None else labels.task


def head_of(spec: RunSpec, task: Classification | None) -> Head | None:
    """The head that tells them."""
    if task is None:
        return None
    return Head(task, spec.training.seed, spec.model.ignore_mismatched_sizes)


def figures_of(objective: Objective) -> tuple[str, ...]:
    """Figures that its evaluations hold beside the loss, by their names in events."""
    while isinstance(objective, Wrapping):
        objective = objective.objective
    if not isinstance(objective, LabelTuning):
        return ()
    return tuple(f"eval_{name}" for name in METRICS_OF[objective.task.problem_type])


def choose_objective(
    spec: RunSpec,
    data: TrainingData,
    model: LoadedModel,
    task: Classification | None,
    plan: RunPlan,
) -> Objective:
    """What is minimized, in passes as large as the plan has them.

    Raises:
        UserError: keys ask for what this model or these labels do not have.
    """
    if task is None:
        objective = text_tuning(spec, layout_of(plan, _layout(spec, model), spec), model)
    else:
        weights = class_weights(spec.data.class_weights, task, data.samples)
        smoothing = spec.training.label_smoothing_factor
        labels = label_tuning(task, model, weights, label_smoothing=smoothing)
        objective = _trained(labels, spec, model)
    BestBy.of(spec.evaluation, figures_of(objective))  # refused now, before the run begins
    return objective


def text_tuning(spec: RunSpec, layout: Layout, model: LoadedModel) -> Objective:
    """What is minimized where texts are learned."""
    objective = text_objective(
        spec.training,
        spec.data,
        layout,
        router_loss_scale(model.model.config),
        has_loss_head=model.loss_head is not None,
    )
    return _trained(objective, spec, model)


def _trained(objective: Objective, spec: RunSpec, model: LoadedModel) -> Objective:
    """The objective with what is added to it while it trains."""
    alpha = spec.training.neftune_noise_alpha
    if alpha:
        objective = WithEmbeddingNoise(objective, model.model.get_input_embeddings(), alpha)
    return Penalized(objective, model.attached.penalty)


def _layout(spec: RunSpec, model: LoadedModel) -> Layout:
    """Without pad tokens where the attention keeps records apart by itself.

    Raises:
        UserError: packs are asked for, and in this model their records would see each other.
    """
    layout = (
        Flat(spec.data.sequence_len)
        if model.attention.is_varlen
        else Padded(model.tokenizer.tokenizer.pad_token_id, model.attached.num_leading_logits)
    )
    if spec.training.sample_packing or spec.evaluation.eval_sample_packing:
        require_records_apart(model, layout)
    return layout

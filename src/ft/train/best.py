"""Which of two evaluations is the better one, and which was the best so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ft.runtime import Problem, UserError
from ft.spec.runspec import EvaluationSpec
from ft.train.checkpoint import TrainerState

_LOSS = "eval_loss"
_LESS_IS_BETTER = frozenset({_LOSS, "eval_mse", "eval_mae"})


@dataclass(frozen=True)
class BestBy:
    """The figure that decides, and which way it is better."""

    figure: str = _LOSS
    """By the name that evaluations give it."""
    more_is_better: bool = False

    @classmethod
    def of(cls, spec: EvaluationSpec, others: Collection[str]) -> BestBy:
        """What the spec asks for.

        Args:
            spec: The run's evaluation section.
            others: Figures that evaluations hold beside the loss, `eval_` in front.

        Raises:
            UserError: it asks for a figure that they do not hold.
        """
        figure = f"eval_{(spec.metric_for_best_model or 'loss').removeprefix('eval_')}"
        if figure not in (_LOSS, *others):
            names = ", ".join(name.removeprefix("eval_") for name in (_LOSS, *others))
            what = f"evaluations here measure no {spec.metric_for_best_model!r}"
            raise UserError(Problem(what, "metric_for_best_model", fix=f"one of {names}"))
        usual = figure not in _LESS_IS_BETTER
        more = usual if spec.greater_is_better is None else spec.greater_is_better
        return cls(figure, more)

    def note(self, figures: Mapping[str, Any], state: TrainerState) -> bool:
        """Keeps in the state whether an evaluation at its step is the best so far; true if so."""
        value = self.value_of(figures)
        if state.best_step is not None and not self.is_better(value, state.best_metric):
            state.num_evaluations_without_gain += 1
            return False
        state.best_loss, state.best_metric = figures[_LOSS], value
        state.best_step = state.step
        state.num_evaluations_without_gain = 0
        return True

    def value_of(self, figures: Mapping[str, Any]) -> float | None:
        """The figure of an evaluation; None where it is not defined."""
        value = figures[self.figure]
        return None if value is None else float(value)

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether an evaluation is better than another one."""
        if value is None or than is None:
            return value is not None
        return value > than if self.more_is_better else value < than

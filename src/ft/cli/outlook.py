"""What a run would come to on one card: does it fit, how long, how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft.plan import Planned
    from ft.train.planning import RunPlan


@dataclass(frozen=True)
class Outlook:
    """A run on one card."""

    card: str
    memory_bytes: int
    plan: RunPlan | None
    """None: it does not fit."""
    least: Planned | None
    """What takes least memory, where nothing fits."""
    num_steps: int | None
    steps_per_epoch: int | None
    tokens_per_step: float
    price_per_hour: float | None

    @property
    def step_time_s(self) -> float | None:
        """Of the mean step; None where it is not known."""
        return self.plan.expected.step_time_s if self.plan and self.plan.expected else None

    def time_s(self, num_steps: int | None) -> float | None:
        """Of so many steps."""
        if self.step_time_s is None or num_steps is None:
            return None
        return self.step_time_s * num_steps

    @property
    def cost(self) -> float | None:
        """Of the whole run, in the price's currency."""
        total_s = self.time_s(self.num_steps)
        if total_s is None or self.price_per_hour is None:
            return None
        return total_s / 3600 * self.price_per_hour

    def to_json(self) -> dict[str, Any]:
        """Everything, in bytes and seconds."""
        step_s = self.step_time_s
        return {
            "gpu": self.card,
            "memory_bytes": self.memory_bytes,
            "fits": self.plan is not None,
            "least_bytes": None if self.least is None else round(self.least.memory.total),
            "plan": None if self.plan is None else self.plan.to_json(),
            "num_steps": self.num_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "tokens_per_step": round(self.tokens_per_step),
            "tokens_per_s": None if step_s is None else round(self.tokens_per_step / step_s),
            "epoch_time_s": self.time_s(self.steps_per_epoch),
            "total_time_s": self.time_s(self.num_steps),
            "cost": self.cost,
        }

"""How much memory and time a run takes, and the fastest way to run it that fits.

    read_shape    the modules of a model, without values  -> ModelShape: bytes and flops by layer
    choose        what is run + what there is             -> what to recompute, what to keep, how
                                                             large a pass; peak memory by part; time

Pure: plain values and modules on the meta device go in, plain values come out, on any machine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft.plan.attention import STAND_IN, register_stand_in
    from ft.plan.cards import CARDS, COMMON, Card, card_of, find_card
    from ft.plan.choice import Budget, Planned, RunNeed, choose, fits, least, planned
    from ft.plan.memory import Choice, LossNeed, MemoryParts, OptimizerNeed
    from ft.plan.shape import ModelShape, read_shape
    from ft.plan.speed import StepWork

_ROOM_OF = {
    "STAND_IN": "attention",
    "register_stand_in": "attention",
    "CARDS": "cards",
    "COMMON": "cards",
    "Card": "cards",
    "card_of": "cards",
    "find_card": "cards",
    "Budget": "choice",
    "Planned": "choice",
    "RunNeed": "choice",
    "choose": "choice",
    "fits": "choice",
    "least": "choice",
    "planned": "choice",
    "Choice": "memory",
    "LossNeed": "memory",
    "MemoryParts": "memory",
    "OptimizerNeed": "memory",
    "ModelShape": "shape",
    "read_shape": "shape",
    "StepWork": "speed",
}

__all__ = [
    "CARDS",
    "COMMON",
    "STAND_IN",
    "Budget",
    "Card",
    "Choice",
    "LossNeed",
    "MemoryParts",
    "ModelShape",
    "OptimizerNeed",
    "Planned",
    "RunNeed",
    "StepWork",
    "card_of",
    "choose",
    "find_card",
    "fits",
    "least",
    "planned",
    "read_shape",
    "register_stand_in",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)

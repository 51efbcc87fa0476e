"""What a model told of the same held-out records before it was trained, and what it tells now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def before_and_after(events: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The predictions of the first evaluation beside those of the weights that the run ends with.

    Args:
        events: A run's, up to its end.

    Returns:
        `step` (of the later one), `before`, `after`; None where nothing was told before.
    """
    told = [each for each in events if each["event"] == "evaluation" and "predictions" in each]
    if len(told) < 2 or told[0]["step"]:
        return None
    best = [each["step"] for each in events if each["event"] == "best"]
    last = next((each for each in told if best and each["step"] == best[-1]), told[-1])
    return {
        "step": last["step"],
        "before": told[0]["predictions"],
        "after": last["predictions"],
    }

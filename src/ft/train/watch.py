"""Who watches the steps go by: nobody in training, a clock in `ft bench`."""

from __future__ import annotations

from typing import Literal, Protocol

Part = Literal["data", "forward", "backward", "clip", "optimizer", "other"]
"""What a step spends its time on; other: reading the loss, reporting, looking around."""


class StepWatch(Protocol):
    """Told where a step is; it must not change what the step does."""

    def begin_step(self) -> None:
        """A step begins, and with it its part ``data``."""

    def mark(self, part: Part) -> None:
        """From here on the time belongs to ``part``."""

    def end_step(self, num_tokens: int, num_trained_tokens: float) -> None:
        """The step is done."""


class Unwatched:
    """Looks away."""

    def begin_step(self) -> None:
        """Nothing."""

    def mark(self, part: Part) -> None:
        """Nothing."""

    def end_step(self, num_tokens: int, num_trained_tokens: float) -> None:
        """Nothing."""

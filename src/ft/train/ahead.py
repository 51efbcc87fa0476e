"""The next step's work, made in a thread while this one runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Makes one thing for each step; order and values are those of making it when it is needed."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        """Args: what makes a step's thing, given the step's number."""
        self._make = make
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._next: tuple[int, Future[Made]] | None = None

    def take(self, step: int, *, then: int | None) -> Made:
        """What was made for the step, or is made now.

        Args:
            step: The step.
            then: The one to begin with meanwhile; None: nothing is made ahead.

        Raises:
            Exception: whatever making it raised, in the step that it is for.
        """
        ready, self._next = self._next, None
        is_ready = ready is not None and ready[0] == step
        made = ready[1].result() if ready and is_ready else self._make(step)
        if then is not None:
            self._next = then, self._thread.submit(self._make, then)
        return made

    def close(self) -> None:
        """Ends the thread; what it has made is dropped."""
        self._thread.shutdown(cancel_futures=True)
        self._next = None

"""How long and how large a template may become: it is code from outside, and may loop for ever.

The sandbox bounds what a template can reach. Here its time is bounded, by a thread that raises in
the one that renders, and the products and powers that it may compute. What one call of a library
does at once (padding to a billion letters) is not.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateRuntimeError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

LIMIT_S = 8.0
"""Of one rendering; a real one takes about a millisecond."""
_POLL_S = 0.5
_LARGEST = 1_000_000
"""Letters or items of a product, bits of a number."""


class TookTooLongError(TemplateRuntimeError):
    """A template was still at work after its time."""

    def __init__(self) -> None:
        super().__init__(f"still at work after {LIMIT_S:.0f} s: does it end?")


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which nothing is multiplied without bounds."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A product or a power, if it is of a usual size."""
        if _size(operator, left, right) > _LARGEST:
            raise SecurityError(f"a template may not compute something so large with {operator}")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: Any, right: Any) -> float:
    if operator == "**":
        is_whole = isinstance(left, int) and isinstance(right, int)
        return left.bit_length() * max(right, 0) if is_whole else 0
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    sequence, times = (right, left) if isinstance(left, int) else (left, right)
    is_sequence = isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int)
    return len(sequence) * times if is_sequence else 0


@contextmanager
def within_time() -> Iterator[None]:
    """Ends the block, in any thread, if it is still at work after `LIMIT_S`.

    Raises:
        TookTooLongError: it was.
    """
    watch = _Watch.of_process()
    thread_id = threading.get_ident()
    with watch.lock:
        watch.deadlines[thread_id] = time.monotonic() + LIMIT_S
    try:
        yield
    finally:
        with watch.lock:
            was_ended = watch.deadlines.pop(thread_id, None) is None
        if was_ended:  # what was raised may still be on its way: the interpreter looks as it loops
            for _ in range(100):
                pass


class _Watch:
    """One thread a process, which looks after all that render."""

    _own: _Watch | None = None

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self.lock = threading.Lock()
        self.deadlines: dict[int, float] = {}
        threading.Thread(target=self._look, daemon=True, name="templates").start()

    @classmethod
    def of_process(cls) -> _Watch:
        """A forked process has no threads but its own, so it begins anew."""
        if cls._own is None or cls._own.process_id != os.getpid():
            cls._own = cls()
        return cls._own

    def _look(self) -> None:
        while True:
            time.sleep(_POLL_S)
            now = time.monotonic()
            with self.lock:
                late = [each for each, until in self.deadlines.items() if now > until]
                for thread_id in late:
                    del self.deadlines[thread_id]
                    _raise_in(thread_id)


def _raise_in(thread_id: int) -> None:
    exception = ctypes.py_object(TookTooLongError)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), exception)

"""A clock over the steps of a run: warm-up, measured steps, and on a GPU one more under a profiler.

    warm-up     measured     profiled
    1 2 3       4 5 ... 13   14

On a GPU the marks are CUDA events, which the device stamps when its work comes to them: nothing
waits for them, and the parts of a step are parts of the device's time. Elsewhere they are times of
the host's clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from ft.bench.kernel_time import KernelTimes, read_kernels
from ft.train.memory import peak_memory_bytes
from ft.train.watch import Part

Stamp = Any
"""A CUDA event, or seconds."""


@dataclass
class WatchedStep:
    """One step: how long each part took, and what went through it."""

    parts_s: dict[Part, float]
    num_passes: int
    num_tokens: int
    num_trained_tokens: float

    @property
    def time_s(self) -> float:
        """From its begin to its end."""
        return sum(self.parts_s.values())


@dataclass
class _OpenStep:
    marks: list[tuple[Part, Stamp]]
    num_tokens: int = 0
    num_trained_tokens: float = 0


class Timer(Protocol):
    """How a device is timed."""

    def stamp(self) -> Stamp:
        """Now, in the order of the device's work."""

    def between_s(self, begin: Stamp, end: Stamp) -> float:
        """Seconds between two stamps; the device must be done with them."""

    def settle(self) -> None:
        """Waits until the device has done everything."""


class HostTimer:
    """Where work is done when a call returns."""

    def stamp(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def between_s(self, begin: float, end: float) -> float:
        """Seconds."""
        return end - begin

    def settle(self) -> None:
        """Nothing to wait for."""


class MpsTimer:
    """Waits for the device at every stamp: the parts are right, the whole a little longer."""

    def stamp(self) -> float:
        """Seconds, once the device has done everything."""
        torch.mps.synchronize()
        return time.perf_counter()

    def between_s(self, begin: float, end: float) -> float:
        """Seconds."""
        return end - begin

    def settle(self) -> None:
        """Waits for the device."""
        torch.mps.synchronize()


class CudaTimer:
    """The device's own stamps."""

    def stamp(self) -> torch.cuda.Event:
        """An event in the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between_s(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Seconds between two events."""
        return float(begin.elapsed_time(end)) / 1e3

    def settle(self) -> None:
        """Waits for the device."""
        torch.cuda.synchronize()


def timer_of(device: torch.device) -> Timer:
    """The timer that fits the device."""
    if device.type == "mps":
        return MpsTimer()
    return CudaTimer() if device.type == "cuda" else HostTimer()


@dataclass
class StepClock:
    """Watches a run of ``num_steps`` steps after ``num_warmup_steps``; a ``StepWatch``.

    Attributes:
        device: Where the run computes.
        num_warmup_steps: Not counted: libraries choose kernels, compile, fill their caches.
        num_steps: Counted.
        loading_peak_bytes: Of memory, up to the last warm-up step.
        peak_bytes: Of memory, in the counted steps (on a CPU, of the process so far).
        wall_time_s: From the first counted step's begin to the last one's end, everything done.
        kernels: Of the step after them; None where there is no GPU.
    """

    device: torch.device
    num_warmup_steps: int
    num_steps: int
    loading_peak_bytes: int = 0
    peak_bytes: int = 0
    wall_time_s: float = 0.0
    kernels: KernelTimes | None = None
    _open: _OpenStep | None = None
    _closed: list[_OpenStep] = field(default_factory=list)
    _ends: list[Stamp] = field(default_factory=list)
    _profiler: Any = None
    _started_s: float = 0.0

    def __post_init__(self) -> None:
        self.timer = timer_of(self.device)

    @property
    def num_all_steps(self) -> int:
        """Steps that the run must have."""
        return self.num_warmup_steps + self.num_steps + (self.device.type == "cuda")

    def begin_step(self) -> None:
        """A step begins."""
        number = len(self._closed)
        if number == self.num_warmup_steps:
            self._begin_counting()
        if number == self.num_warmup_steps + self.num_steps:
            self._profiler = profile(activities=[ProfilerActivity.CUDA], acc_events=True)
            self._profiler.start()
        self._open = _OpenStep([("data", self.timer.stamp())])

    def mark(self, part: Part) -> None:
        """The time belongs to ``part`` from here on."""
        if self._open is not None:
            self._open.marks.append((part, self.timer.stamp()))

    def end_step(self, num_tokens: int, num_trained_tokens: float) -> None:
        """The step is done."""
        assert self._open is not None
        self._open.num_tokens, self._open.num_trained_tokens = num_tokens, num_trained_tokens
        self._closed.append(self._open)
        self._ends.append(self.timer.stamp())
        self._open = None
        if len(self._closed) == self.num_warmup_steps + self.num_steps:
            self._end_counting()
        if self._profiler is not None:
            self.timer.settle()
            self._profiler.stop()
            self.kernels = read_kernels(self._profiler.events())

    def counted_steps(self) -> list[WatchedStep]:
        """The steps after the warm-up, without the profiled one."""
        self.timer.settle()
        counted = slice(self.num_warmup_steps, self.num_warmup_steps + self.num_steps)
        return [
            self._watched(step, end)
            for step, end in zip(self._closed[counted], self._ends[counted], strict=True)
        ]

    def _watched(self, step: _OpenStep, end: Stamp) -> WatchedStep:
        parts: dict[Part, float] = {}
        stamps = [*(stamp for _, stamp in step.marks), end]
        for (part, begin), until in zip(step.marks, stamps[1:], strict=True):
            parts[part] = parts.get(part, 0.0) + self.timer.between_s(begin, until)
        num_passes = sum(part == "forward" for part, _ in step.marks)
        return WatchedStep(parts, num_passes, step.num_tokens, step.num_trained_tokens)

    def _begin_counting(self) -> None:
        self.timer.settle()
        self.loading_peak_bytes = peak_memory_bytes(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._started_s = time.perf_counter()

    def _end_counting(self) -> None:
        self.timer.settle()
        self.wall_time_s = time.perf_counter() - self._started_s
        self.peak_bytes = peak_memory_bytes(self.device)

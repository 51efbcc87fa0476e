"""What a GPU did during a step, by the kind of kernel."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch._C._autograd import DeviceType

_ELEMENTWISE = "elementwise and triton"
_KINDS: tuple[tuple[str, str], ...] = (
    ("dequantization", r"^triton_.*(rshift|bitwise)"),  # what ft.kernels.four_bit is compiled to
    (_ELEMENTWISE, r"^triton_(poi|red|per)_"),  # inductor's, named after all that they follow on
    ("attention", r"flash|fmha|attention|sdpa"),
    ("dequantization", r"dequant|gemm_4bit|gemv_4bit|nf4|quantize_?blockwise|kquantize"),
    ("matrix products", r"gemm|gemv|cutlass|cublas|nvjet|wgmma|xmma|splitk|_mm_|matmul"),
    ("optimizer", r"multi_tensor|optimizer|adam"),
    ("copies", r"memcpy|memset|direct_copy|catarray|copy_kernel"),
    (
        _ELEMENTWISE,
        r"elementwise|triton|reduce|softmax|norm|rotary|index|gather|scatter",
    ),
)
"""Kinds and what their kernels' names have in them; the first that fits counts."""

OTHER = "other"
_NUM_NAMED = 25
_LONGEST_NAME = 120


@dataclass(frozen=True)
class KernelTimes:
    """Time on the device in one step.

    Attributes:
        by_kind_s: Seconds of each kind, the longest first.
        num_kernels: How many were started.
        longest: Names with seconds and number, the longest first.
    """

    by_kind_s: dict[str, float]
    num_kernels: int
    longest: list[tuple[str, float, int]]

    @property
    def total_s(self) -> float:
        """Of all kernels; those that ran at the same time count each."""
        return sum(self.by_kind_s.values())


def kind_of(name: str) -> str:
    """The kind of a kernel, by its name."""
    lowered = name.lower()
    return next((kind for kind, pattern in _KINDS if re.search(pattern, lowered)), OTHER)


def read_kernels(events: Iterable[Any]) -> KernelTimes:
    """Sums what a profiler saw on the device.

    Args:
        events: torch.profiler's; those of the host, and marked regions, are left out.
    """
    seen = [
        (str(event.name), event.time_range.elapsed_us() / 1e6)
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    return sum_up(seen)


def sum_up(kernels: Iterable[tuple[str, float]]) -> KernelTimes:
    """Names and seconds of single kernels, put together."""
    kinds: dict[str, float] = defaultdict(float)
    names: dict[str, tuple[float, int]] = {}
    number = 0
    for name, seconds in kernels:
        number += 1
        kinds[kind_of(name)] += seconds
        so_far, count = names.get(name, (0.0, 0))
        names[name] = (so_far + seconds, count + 1)
    by_kind = dict(sorted(kinds.items(), key=lambda entry: -entry[1]))
    longest = sorted(names.items(), key=lambda entry: -entry[1][0])[:_NUM_NAMED]
    return KernelTimes(by_kind, number, [(name[:_LONGEST_NAME], *sums) for name, sums in longest])

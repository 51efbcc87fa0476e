"""What this device can do at best, measured; and the tokens a second that it would allow a config.

Each operation is timed alone, in the shapes of the config, as torch runs it. A ceiling is what
is left when a pass consists of nothing but these: no adapter, no norms, no gaps between kernels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import ft.model.patches  # noqa: F401  # first: it silences the import of bitsandbytes
from ft.bench.clock import timer_of
from ft.bench.workload import AttentionShape, PassShape, Product, Workload

# isort: split
from bitsandbytes import functional as bnb

_LARGE = {"cuda": 8192, "cpu": 512}
"""Sides of the square product whose rate counts as the device's."""
_COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 25}
_CACHE_BYTES = 1 << 30
"""More than a GPU's cache: written between repetitions, so that weights come from memory; and long
enough to write that the host has the operation ready when the device comes to it."""
_SECONDS_EACH = {"cuda": 0.12, "cpu": 0.03}
_MOST_REPETITIONS = 50


@dataclass(frozen=True)
class DeviceLimits:
    """Rates of single operations.

    Attributes:
        product_flops: Operations a second of a large square product.
        product_side: Its side.
        copy_bytes_per_s: Read plus written.
        attention_flops: Operations a second of forward and backward, the causal half counted;
            None where the config has no attention that is known.
        dequantization_bytes_per_s: Plain weights made of NF4 ones; None without 4-bit weights.
    """

    product_flops: float
    product_side: int
    copy_bytes_per_s: float
    attention_flops: float | None
    dequantization_bytes_per_s: float | None


@dataclass(frozen=True)
class PassLimits:
    """Seconds that a pass of this config spends at least on each part.

    Attributes:
        forward_s: Linear layers and head, forward.
        backward_s: Their gradients.
        attention_forward_s: All layers.
        attention_backward_s: All layers.
        dequantization_s: Every 4-bit weight once.
    """

    forward_s: float
    backward_s: float
    attention_forward_s: float
    attention_backward_s: float
    dequantization_s: float

    def ceilings(self, num_tokens: float) -> dict[str, float]:
        """Tokens a second that the device would allow, by what is done with the frozen weights."""
        once = self.forward_s + self.backward_s
        once += self.attention_forward_s + self.attention_backward_s
        again = self.forward_s + self.attention_forward_s
        seconds = {AT_HAND: once}
        if self.dequantization_s:
            seconds["dequantized twice a pass, no recompute"] = once + 2 * self.dequantization_s
        seconds["every layer recomputed"] = once + again + 3 * self.dequantization_s
        return {name: num_tokens / value for name, value in seconds.items()}


AT_HAND = "weights at hand, no recompute"
"""The ceiling to compare with: nothing can be left out of it."""


def measure_device(
    workload: Workload, shape: PassShape, dtype: torch.dtype, device: torch.device, *, in_4bit: bool
) -> tuple[DeviceLimits, PassLimits]:
    """The device's rates, and the least time of a pass.

    Args:
        workload: What a pass computes.
        shape: How much goes through it.
        dtype: Of products.
        device: What is measured.
        in_4bit: The base is held in NF4.
    """
    bench = _Bench(device, dtype)
    side = _LARGE.get(device.type, _LARGE["cpu"])
    product_s = bench.product_s(side, side, side)
    copy_s, copied_bytes = bench.copy_s()
    forward_s, backward_s = bench.linear_layers_s(workload.products, shape)
    attention_s, attention_flops = (0.0, 0.0), None
    if workload.attention is not None:
        attention_s = bench.attention_s(workload.attention, shape)
        width = workload.attention.num_heads * workload.attention.head_dim
        operations = (
            7.0 * max(round(shape.num_records), 1) * round(shape.record_length) ** 2 * width
        )
        attention_flops = operations / sum(attention_s)
    dequantization_s, made_bytes = (
        bench.dequantization_s(workload.products) if in_4bit else (0.0, 0)
    )
    num_layers = workload.attention.num_layers if workload.attention is not None else 0
    device_limits = DeviceLimits(
        2.0 * side**3 / product_s,
        side,
        copied_bytes / copy_s,
        attention_flops,
        made_bytes / dequantization_s if dequantization_s else None,
    )
    return device_limits, PassLimits(
        forward_s,
        backward_s,
        num_layers * attention_s[0],
        num_layers * attention_s[1],
        dequantization_s,
    )


class _Bench:
    """Times single operations on a device."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.timer = timer_of(device)
        is_cuda = device.type == "cuda"
        self.seconds_each = _SECONDS_EACH.get(device.type, _SECONDS_EACH["cpu"])
        self.cache = torch.empty(_CACHE_BYTES if is_cuda else 0, dtype=torch.int8, device=device)

    def seconds(self, operation: Callable[[], object]) -> float:
        """The median over repetitions, after three that do not count.

        How many follow is said by the shorter of the last two: in one of them the host may have
        been held up.
        """
        operation()
        self.timer.settle()
        one_s = max(min(self._once_s(operation), self._once_s(operation)), 1e-6)
        repetitions = min(max(int(self.seconds_each / one_s), 3), _MOST_REPETITIONS)
        stamps = []
        for _ in range(repetitions):
            self.cache.zero_()
            begin = self.timer.stamp()
            operation()
            stamps.append((begin, self.timer.stamp()))
        self.timer.settle()
        return statistics.median(self.timer.between_s(*pair) for pair in stamps)

    def _once_s(self, operation: Callable[[], object]) -> float:
        """By the host's clock."""
        started = time.perf_counter()
        operation()
        self.timer.settle()
        return time.perf_counter() - started

    def random(self, *shape: int) -> Tensor:
        """Numbers as activations have them."""
        return torch.randn(*shape, dtype=self.dtype, device=self.device)

    def product_s(self, rows: int, inner: int, columns: int) -> float:
        """[rows, inner] @ [inner, columns], the second one transposed as a weight is."""
        left, right = self.random(rows, inner), self.random(columns, inner)
        return self.seconds(lambda: left @ right.t())

    def copy_s(self) -> tuple[float, int]:
        """A copy within the device's memory; with the bytes that it reads and writes."""
        num_bytes = _COPIED_BYTES.get(self.device.type, _COPIED_BYTES["cpu"])
        source = torch.zeros(num_bytes, dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        return self.seconds(lambda: target.copy_(source)), 2 * num_bytes

    def linear_layers_s(
        self, products: tuple[Product, ...], shape: PassShape
    ) -> tuple[float, float]:
        """Forward and backward of all linear layers."""
        forward_s = backward_s = 0.0
        for each in products:
            rows = max(round(shape.num_trained_tokens if each.is_head else shape.num_tokens), 1)
            weight = self.random(each.out_features, each.in_features)
            inputs = self.random(rows, each.in_features)
            gradient = self.random(rows, each.out_features)
            forward_s += each.count * self._time(inputs, weight.t())
            backward_s += each.count * self._time(gradient, weight)
            if each.is_trained:
                backward_s += each.count * self._time(gradient.t(), inputs)
        return forward_s, backward_s

    def _time(self, left: Tensor, right: Tensor) -> float:
        return self.seconds(lambda: left @ right)

    def attention_s(self, attention: AttentionShape, shape: PassShape) -> tuple[float, float]:
        """Forward and backward of one layer, records of the mean length side by side."""
        num_records = max(round(shape.num_records), 1)
        size = (num_records, attention.num_heads, round(shape.record_length), attention.head_dim)
        query, key, value = (self.random(*size).requires_grad_() for _ in range(3))

        def forward() -> Tensor:
            return scaled_dot_product_attention(query, key, value, is_causal=True)

        output = forward()
        gradient = torch.randn_like(output)

        def backward() -> object:
            inputs = (query, key, value)
            return torch.autograd.grad(output, inputs, gradient, retain_graph=True)

        return self.seconds(forward), self.seconds(backward)

    def dequantization_s(self, products: tuple[Product, ...]) -> tuple[float, int]:
        """All 4-bit weights once, with the bytes of the plain weights that are made."""
        total_s, num_bytes = 0.0, 0
        for each in products:
            if each.is_head:
                continue
            weight = self.random(each.out_features, each.in_features)
            packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
            total_s += each.count * self._time_dequantization(packed, state)
            num_bytes += each.count * each.num_weights * weight.element_size()
        return total_s, num_bytes

    def _time_dequantization(self, packed: Tensor, state: object) -> float:
        return self.seconds(lambda: bnb.dequantize_4bit(packed, state))

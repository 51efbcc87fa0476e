"""How much memory a run takes at its peak, part by part.

An optimizer step holds most at one of three moments; what is there at each is added up:

    at the loss           everything that the layers keep, and a chunk of the logits
    in a layer's backward what the layers before it keep, all that this one keeps (made anew if it
                          is recomputed), what its backward pass works with, gradients so far
    at the update         gradients, and what the optimizer works with

Weights, kept copies and the optimizer's state are there throughout.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import accumulate

from ft.plan.shape import LayerShape, ModelShape

CUDA_CONTEXT_BYTES = 752 * 2**20
"""The driver's context and loaded kernels, outside of torch's own count; measured on an H100."""
PRODUCT_WORKSPACE_BYTES = 32 * 2**20
"""cuBLAS: torch's default, in torch's count."""
MARGIN = 0.04
"""Share of the card that stays free: fragments, and what is not modelled."""


@dataclass(frozen=True)
class Choice:
    """What is decided for a run; it changes no result, and is stored with it."""

    num_recomputed: int
    """Layers from the first on whose activations are made anew in the backward pass."""
    num_kept: int
    """Layers from the first on that keep their dequantized weights."""
    pass_tokens: int
    """Tokens of one forward pass at most."""


@dataclass(frozen=True)
class OptimizerNeed:
    """Bytes of the optimizer, once it has stepped."""

    state_bytes: float
    working_bytes: float = 0.0
    """At the update, beside state and gradients."""


@dataclass(frozen=True)
class LossNeed:
    """What the head and the loss take beside what layers keep."""

    bytes_per_trained_token: float
    fixed_bytes: float = 0.0


@dataclass(frozen=True)
class PassSize:
    """The largest forward pass."""

    num_tokens: int
    num_trained_tokens: int
    num_passes: int
    """Of an optimizer step; with several, gradients are there during all but the first."""


@dataclass(frozen=True)
class MemoryParts:
    """What is there at the peak, in bytes; the sum is the peak."""

    weights: float
    copies: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    loss: float
    workspace: float

    @property
    def total(self) -> float:
        """The peak, as torch counts it (``max_memory_allocated``)."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class _Moment:
    gradients: float
    activations: float
    loss: float
    workspace: float

    @property
    def total(self) -> float:
        return self.gradients + self.activations + self.loss + self.workspace


def peak_memory(
    model: ModelShape,
    choice: Choice,
    size: PassSize,
    *,
    optimizer: OptimizerNeed,
    loss: LossNeed,
    is_cuda: bool = True,
) -> MemoryParts:
    """The peak of an optimizer step after the first one.

    Args:
        model: What it is made of.
        choice: What is recomputed and kept.
        size: Of its largest pass.
        optimizer: What the optimizer takes.
        loss: What head and loss take.
        is_cuda: Whether products have a workspace of their own.
    """
    weights = model.weights
    kept = [_kept(model, choice, size.num_tokens, n) for n in range(len(model.layers))]
    before = [0.0, *accumulate(kept)]
    gradients = _gradients(model, size)
    moments = [
        _at_loss(model, size, loss, before[-1]),
        *(
            _Moment(
                gradients[n], before[n] + _own(layer, size), 0.0, _working(layer, size, choice, n)
            )
            for n, layer in enumerate(model.layers)
        ),
        _Moment(weights.gradient_bytes, 0.0, 0.0, optimizer.working_bytes),
    ]
    most = max(moments, key=lambda moment: moment.total)
    fixed = PRODUCT_WORKSPACE_BYTES if is_cuda else 0
    return MemoryParts(
        weights=weights.held_bytes,
        copies=sum(layer.weights.copy_bytes for layer in model.layers[: choice.num_kept]),
        adapters=weights.adapter_bytes,
        gradients=most.gradients,
        optimizer=optimizer.state_bytes,
        activations=most.activations,
        loss=most.loss,
        workspace=most.workspace + fixed,
    )


def _kept(model: ModelShape, choice: Choice, num_tokens: int, number: int) -> float:
    """What a layer keeps for its backward pass."""
    trace = model.layers[number].trace
    if number < choice.num_recomputed:
        return trace.input_bytes_per_token * num_tokens
    return trace.kept_bytes_per_token * num_tokens + trace.kept_bytes


def _ends(model: ModelShape, size: PassSize) -> float:
    """Around the layers: the last one's output in fp32 for the norm, and normed for the head."""
    normed = model.hidden_size * (4 + model.head_bytes) * size.num_tokens
    return normed + model.hidden_size * model.head_bytes * size.num_trained_tokens


def _at_loss(model: ModelShape, size: PassSize, loss: LossNeed, kept: float) -> _Moment:
    gradients = model.weights.gradient_bytes if size.num_passes > 1 else 0.0
    chunk = loss.fixed_bytes + loss.bytes_per_trained_token * size.num_trained_tokens
    return _Moment(gradients, kept + _ends(model, size), chunk, 0.0)


def _own(layer: LayerShape, size: PassSize) -> float:
    """All that a layer keeps, as its backward pass begins."""
    return layer.trace.kept_bytes_per_token * size.num_tokens + layer.trace.kept_bytes


def _working(layer: LayerShape, size: PassSize, choice: Choice, number: int) -> float:
    trace, weights = layer.trace, layer.weights
    dequantized = weights.largest_copy_bytes if number >= choice.num_kept else 0.0
    return trace.working_bytes_per_token * size.num_tokens + trace.working_bytes + dequantized


def _gradients(model: ModelShape, size: PassSize) -> list[float]:
    """What is there of them while each layer's backward pass runs."""
    if size.num_passes > 1:
        return [model.weights.gradient_bytes] * len(model.layers)
    from_the_end = [layer.weights.gradient_bytes for layer in reversed(model.layers)]
    return list(accumulate(from_the_end, initial=model.outside.gradient_bytes))[:0:-1]

"""What a model takes, by layers: counted on its modules, which need no values.

Bytes of quantized weights follow bitsandbytes' layout: NF4 holds half a byte a weight, one byte of
scale for each 64, four for each 256 of those (double quantization, https://arxiv.org/abs/2305.14314,
section 3); LLM.int8 one byte a weight and four a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from ft.plan.saved import LayerTrace, capture_call, trace_layer

_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Weights:
    """Parameters of a part of the model; bytes as they are held."""

    num_trained: int = 0
    num_products: int = 0
    """Weights that every token is multiplied with: those of linear layers of the base."""
    num_trained_products: int = 0
    """Of those, the trained ones."""
    num_adapter_columns: int = 0
    """Inputs and outputs of all layers that have an adapter."""
    held_bytes: float = 0.0
    """Everything, the adapter's parameters left out."""
    adapter_bytes: float = 0.0
    gradient_bytes: float = 0.0
    copy_bytes: float = 0.0
    """Of the quantized ones, dequantized."""
    largest_copy_bytes: float = 0.0
    """Of the largest of them, which is dequantized by itself."""

    def __add__(self, other: Weights) -> Weights:
        """Both together."""
        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        largest = max(self.largest_copy_bytes, other.largest_copy_bytes)
        return Weights(**{**values, "largest_copy_bytes": largest})


@dataclass(frozen=True)
class LayerShape:
    """One decoder layer."""

    weights: Weights
    trace: LayerTrace


@dataclass(frozen=True)
class ModelShape:
    """The whole model, as far as memory and time depend on it."""

    layers: tuple[LayerShape, ...]
    outside: Weights
    """Embeddings, the last norm, the output head."""
    hidden_size: int
    vocab_size: int
    attention_size: int
    """Heads times head dimension: what attention costs a pair of tokens."""
    head_bytes: int
    """Of a number of the hidden states that the output head takes."""
    trains_head: bool
    trained_sizes: tuple[int, ...] = field(default=(), repr=False)
    """Numbers of each trained tensor: small ones get more state from some optimizers."""

    @property
    def weights(self) -> Weights:
        """Of all parts."""
        return sum((layer.weights for layer in self.layers), self.outside)


def read_shape(
    model: Any,
    layers: Sequence[nn.Module],
    *,
    quantized: Mapping[str, int],
    compute: torch.dtype,
    autocast: bool,
    is_compiled: bool,
    attention: str,
) -> ModelShape:
    """Counts a model on the meta device.

    Args:
        model: transformers' causal language model, or peft's around it, in training mode.
        layers: Its decoder layers, in order.
        quantized: Bits of the parameters that would be held in few: name -> 4 or 8.
        compute: The format of products.
        autocast: Whether products run under autocast.
        is_compiled: Whether layers will run compiled.
        attention: What transformers is told when layers are run for counting.
    """
    parts = _parts(model, layers)
    counts = [_count(part, quantized, compute, _active_share(model)) for part in parts]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    config = base.config.get_text_config()
    traces = _Traces(model, layers, compute if autocast else None, is_compiled)
    config._attn_implementation = attention
    shapes = tuple(
        LayerShape(count, traces.of(layer)) for count, layer in zip(counts, layers, strict=False)
    )
    num_heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return ModelShape(
        layers=shapes,
        outside=counts[-1],
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size if head is None else head.weight.shape[0],
        attention_size=num_heads * head_dim,
        head_bytes=compute.itemsize,
        trains_head=head is not None and any(p.requires_grad for p in head.parameters()),
        trained_sizes=tuple(p.numel() for p in model.parameters() if p.requires_grad),
    )


@dataclass(frozen=True)
class _Held:
    """One parameter and where it is."""

    name: str
    owner: nn.Module
    parameter: nn.Parameter
    is_adapter: bool
    """Whether it was added to the base."""

    @property
    def is_product(self) -> bool:
        """Whether tokens are multiplied with it: a linear layer's, or fused experts'."""
        is_linear = isinstance(self.owner, nn.Linear) or type(self.owner).__name__ == "Conv1D"
        return not self.is_adapter and (
            (is_linear and self.parameter.ndim > 1) or self.parameter.ndim == _FUSED
        )


_PACKED_BITS = 4
"""Of weights that are dequantized as a whole before they are used."""
_FUSED = 3
"""Dimensions of the weights of fused experts."""


def _parts(model: nn.Module, layers: Sequence[nn.Module]) -> list[list[_Held]]:
    """The parameters of each layer, and at the end of everything else; a tied one once."""
    number_of = {id(m): number for number, layer in enumerate(layers) for m in layer.modules()}
    parts: list[list[_Held]] = [[] for _ in (*layers, None)]
    seen: set[int] = set()
    is_adapted = hasattr(model, "get_base_model")
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                is_added = (
                    is_adapted and parameter.requires_grad and ".modules_to_save." not in path
                )
                held = _Held(f"{path}.{name}", module, parameter, is_added)
                parts[number_of.get(id(module), -1)].append(held)
    return parts


def _active_share(model: Any) -> float:
    """Of a mixture's experts, those that a token goes through."""
    config = model.config.get_text_config()
    active = getattr(config, "num_experts_per_tok", None)
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    total = next((n for name in names if (n := getattr(config, name, None))), None)
    return active / total if active and total else 1.0


def _count(
    part: Iterable[_Held], quantized: Mapping[str, int], compute: torch.dtype, active_share: float
) -> Weights:
    total = Weights()
    for held in part:
        total += _one(held, quantized.get(held.name, 0), compute, active_share)
    return total


def _one(held: _Held, bits: int, compute: torch.dtype, active_share: float) -> Weights:
    parameter, is_adapter = held.parameter, held.is_adapter
    count, size = parameter.numel(), parameter.element_size()
    trained = count if parameter.requires_grad else 0
    num_bytes = {_PACKED_BITS: count * _NF4_BYTES, 8: count + 4.0 * parameter.shape[0]}.get(
        bits, count * size
    )
    is_product = held.is_product
    copy_bytes = float(count * compute.itemsize) if bits == _PACKED_BITS else 0.0
    share = active_share if parameter.ndim == _FUSED else 1.0
    return Weights(
        num_trained=trained,
        num_products=round(count * share) if is_product else 0,
        num_trained_products=round(trained * share) if is_product else 0,
        num_adapter_columns=max(parameter.shape) if is_adapter else 0,
        held_bytes=0.0 if is_adapter else num_bytes,
        adapter_bytes=num_bytes if is_adapter else 0.0,
        gradient_bytes=float(trained * size),
        copy_bytes=copy_bytes,
        largest_copy_bytes=copy_bytes,
    )


class _Traces:
    """One trace for all layers that are alike."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        autocast: torch.dtype | None,
        is_compiled: bool,
    ) -> None:
        self.autocast, self.is_compiled = autocast, is_compiled
        self.call = capture_call(model, layers[0]) if layers else None
        self._known: dict[Any, LayerTrace] = {}

    def of(self, layer: nn.Module) -> LayerTrace:
        """The layer's own, or that of one like it."""
        assert self.call is not None
        parameters = [(n, p.shape, p.dtype, p.requires_grad) for n, p in layer.named_parameters()]
        kind = type(layer).__qualname__, tuple(parameters)
        if kind not in self._known:
            self._known[kind] = trace_layer(
                layer, self.call, autocast=self.autocast, is_compiled=self.is_compiled
            )
        return self._known[kind]

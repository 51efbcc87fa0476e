"""Linear layers whose weight is frozen, on the short way: ours in place of the libraries' forwards.

The class of each instance is exchanged for a subclass; names, parameters and files stay PEFT's and
bitsandbytes', and whatever is not the plain case (a merged or disabled adapter, a variant of LoRA)
goes the library's way. What is gained: no work that a compiler cannot see through, no copy, one
addition fused into a product, and a place for the dequantized weight while memory allows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes
from ft.kernels.four_bit import FourBitWeight
from ft.kernels.frozen_linear import frozen_linear
from ft.kernels.lora_linear import lora_linear
from ft.kernels.packed import FrozenWeight
from ft.kernels.scaled_cast import scaled_cast
from ft.model.grouped import GroupedLinear
from ft.model.packed import WeightHolder, in_compute_format
from ft.model.shared_input import SharedInput, read_one_tensor

# isort: split
import bitsandbytes as bnb
from peft.tuners.lora.awq import AwqLoraLinear
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit
from peft.tuners.lora.gptq import GPTQLoraLinear
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer


def shorten_linears(model: nn.Module) -> int:
    """Exchanges the classes of a model's frozen linear layers that are the plain case, in place.

    Returns:
        How many there were.
    """
    inner: set[int] = set()
    num_exchanged = 0
    for module in list(model.modules()):
        if id(module) in inner:
            continue
        if isinstance(module, LoraLayer):
            inner.add(id(module.get_base_layer()))
        num_exchanged += _exchange(module)
    return num_exchanged


def hold_weights(part: nn.Module, *, dequantized: bool, dtype: torch.dtype) -> int:
    """Keeps the weights of a part of the model in the compute format, or lets them go again.

    The copies are bit for bit what is otherwise dequantized in each pass. Where nothing is kept,
    the scales of the blocks are, in fp32: then a compiler makes one kernel of the rest.

    Args:
        part: Of the model.
        dequantized: Whether to keep them.
        dtype: The compute format.

    Returns:
        Bytes of the copies.
    """
    num_bytes = 0
    for module in part.modules():
        if isinstance(module, WeightHolder):
            module.hold(dequantized, dtype)
            held = module.held_weight
            num_bytes += 0 if held is None else held.numel() * held.element_size()
    return num_bytes


def cast_factors_together(model: nn.Module, dtype: torch.dtype) -> None:
    """Makes each training pass of the model begin with all its factors' casts, in place.

    Layer by layer they are two small kernels a layer and pass, and two for the gradients, which is
    a fifth of what a short pass launches. Layers whose factors are in the compute format already
    stay as they are. Those that read one tensor, and have no dropout, get their factors stacked,
    and make their updates together (``shared_input``); a group that turns out not to share in the
    first pass is none from the second on.

    Args:
        model: With layers on the short way.
        dtype: The compute format.
    """
    layers: list[Any] = [
        layer
        for layer in model.modules()
        if isinstance(layer, _ShortLora) and layer.trained_factors()[0].dtype != dtype
    ]
    stacks = _share(model, layers)

    def cast(model: nn.Module, args: Any) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        stacks[:] = [part for stack in stacks for part in _ready(stack)]
        factors = [layer.trained_factors() for stack in stacks for layer in stack]
        tensors = [a for a, *_ in factors] + [b for _, b, _ in factors]
        scales = [1.0] * len(factors) + [scaling for *_, scaling in factors]
        counts = [len(stack) for stack in stacks]
        casts = scaled_cast(tensors, scales, dtype, stacks=counts * 2)
        num_stacks = len(stacks)
        for stack, a, b in zip(stacks, casts[:num_stacks], casts[num_stacks:], strict=True):
            for layer in stack:
                object.__setattr__(layer, "cast_factors", (a, b))

    def end(model: nn.Module, args: Any, output: Any) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        for stack in stacks:
            if stack[0].shared_input is not None:
                stack[0].shared_input.end_pass()

    if layers:
        model.register_forward_pre_hook(cast)
        model.register_forward_hook(end)


def _share(model: nn.Module, layers: list[Any]) -> list[list[Any]]:
    """All layers, those together whose factors are to be stacked; they know their groups."""
    may_share = [layer for layer in layers if not isinstance(layer.dropout(), nn.Dropout)]
    stacks = list(read_one_tensor(model, may_share))
    for stack in stacks:
        group = SharedInput(tuple(len(layer.trained_factors()[1]) for layer in stack))
        for place, layer in enumerate(stack):
            layer.shared_input, layer.place = group, place
    return stacks + [[layer] for layer in layers if layer.shared_input is None]


def _ready(stack: list[Any]) -> list[list[Any]]:
    """The layers as the next pass stacks them; what one cut short left behind is dropped."""
    group: SharedInput | None = stack[0].shared_input
    if group is None:
        return [stack]
    group.let_go()
    if not group.is_wrong:
        return [stack]
    for layer in stack:
        layer.shared_input = None
    return [[layer] for layer in stack]


def packed_weight(layer: Any) -> FourBitWeight:
    """What a bitsandbytes layer of 4 bits holds: the same tensors, no copies."""
    state = layer.weight.quant_state
    nested = state.state2 if state.nested else None
    return FourBitWeight(
        codes=layer.weight.data.view(torch.uint8),
        scales=state.absmax,
        scale_values=None if nested is None else nested.code,
        scale_scales=None if nested is None else nested.absmax,
        scale_offset=None if nested is None else state.offset,
        values=state.code,
        scale_block=0 if nested is None else nested.blocksize,
        block=state.blocksize,
        kind=state.quant_type,
        shape=tuple(state.shape),
        dtype=state.dtype,
    )


class _ShortLora:
    """The forward of a layer with one plain adapter."""

    cast_factors: tuple[Tensor, Tensor] | None = None
    """A and the scaled B in the compute format, for this forward pass; stacked with those of the
    layers that share its input, where there are some."""

    shared_input: SharedInput | None = None
    """Makes the update, from the cast factors, where others read the same tensor."""

    place: int = 0
    """Among them."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or self._disable_adapters or self.merged_adapters:
            output: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return output
        is_cast = self.cast_factors is not None and self.training and torch.is_grad_enabled()
        weight, bias = self.weight_to_use(), self.base_layer.bias
        if is_cast and self.shared_input is not None:
            update = self.shared_input.update(self.place, x, in_compute_format, self.cast_factors)
            return frozen_linear(in_compute_format(x), weight, bias, update=update)
        a, b, scaling = (*self.cast_factors, 1.0) if is_cast else self.trained_factors()
        dropout = self.dropout()
        dropout_p = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
        x = in_compute_format(x)
        return lora_linear(x, weight, bias, a, b, scaling=scaling, dropout_p=dropout_p)

    def dropout(self: Any) -> nn.Module:
        """What the update's input goes through."""
        module: nn.Module = self.lora_dropout[self._active_adapter[0]]
        return module

    def trained_factors(self: Any) -> tuple[Tensor, Tensor, float]:
        """A, B as they are trained, and the scaling."""
        name = self._active_adapter[0]
        scaling: float = self.scaling[name]
        return self.lora_A[name].weight, self.lora_B[name].weight, scaling


class _ShortLoraLinear(_ShortLora, LoraLinear):  # type: ignore[misc]
    def weight_to_use(self) -> Tensor:
        weight: Tensor = self.base_layer.weight
        return weight


class _ShortLora4bit(WeightHolder, _ShortLora, LoraLinear4bit):  # type: ignore[misc]
    def pack(self) -> FourBitWeight:
        return packed_weight(self.base_layer)


class _OnGrouped(_ShortLora):
    """Over a layer that holds its weight itself."""

    def weight_to_use(self: Any) -> FrozenWeight:
        weight: FrozenWeight = self.base_layer.weight_to_use()
        return weight


class _ShortLoraGptq(_OnGrouped, GPTQLoraLinear):  # type: ignore[misc]
    pass


class _ShortLoraAwq(_OnGrouped, AwqLoraLinear):  # type: ignore[misc]
    pass


class _ShortLinear4bit(WeightHolder, bnb.nn.Linear4bit):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return frozen_linear(in_compute_format(x), self.weight_to_use(), self.bias)

    def pack(self) -> FourBitWeight:
        return packed_weight(self)


_SHORT: dict[Any, Any] = {
    LoraLinear: _ShortLoraLinear,
    LoraLinear4bit: _ShortLora4bit,
    GPTQLoraLinear: _ShortLoraGptq,
    AwqLoraLinear: _ShortLoraAwq,
    bnb.nn.Linear4bit: _ShortLinear4bit,
}


def _exchange(module: nn.Module) -> bool:
    short: Any = _SHORT.get(type(module))
    if short is None or (isinstance(module, LoraLayer) and not _is_plain(module)):
        return False
    short.__name__ = type(module).__name__  # what libraries and messages call it
    module.__class__ = short
    if isinstance(module, WeightHolder):
        module.hold(False, torch.float32)
    return True


def _is_plain(layer: Any) -> bool:
    """Whether the layer computes the plain equation, with one adapter."""
    base = layer.base_layer
    return bool(
        (isinstance(base, GroupedLinear) or _is_frozen_linear(base))
        and list(layer.lora_A) == list(layer.active_adapters)
        and len(layer.lora_A) == 1
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and not getattr(layer, "fan_in_fan_out", False)
    )


def _is_frozen_linear(base: Any) -> bool:
    return type(base) in (nn.Linear, bnb.nn.Linear4bit) and not base.weight.requires_grad

"""Layers that hold their weight in few bits: those of GPTQ and AWQ, taken over from gptqmodel.

Transformers reads such checkpoints with the package gptqmodel, whose layers have a kernel of their
own choosing: the fast ones give no gradient, and the others keep the whole dequantized matrix until
the backward pass. So its plain kernel is asked for, and each layer's class is exchanged for one
whose product is ours (``kernels.frozen_linear``), over the same tensors.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ft.kernels.frozen_linear import frozen_linear
from ft.kernels.grouped import GroupedWeight, Layout, unpack_columns
from ft.model.packed import WeightHolder, in_compute_format
from ft.model.patches import import_gptqmodel

_KERNELS = {"gptq": "torch", "awq": "torch_awq"}
"""By format, what gptqmodel calls the kernel that runs everywhere and holds plain tensors."""


class GroupedLinear(WeightHolder):
    """The part of a layer that is ours; the other is gptqmodel's class, for names and files."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """The product, in the compute format."""
        return frozen_linear(in_compute_format(x), self.weight_to_use(), self.bias)

    @property
    def num_weights(self: Any) -> int:
        """Of the matrix, which is no parameter."""
        number: int = self.in_features * self.out_features
        return number

    def train(self: Any, mode: bool = True) -> Any:
        """The library's own prepares kernels that are not used."""
        return nn.Module.train(self, mode)

    def _apply(self: Any, *args: Any, **kwargs: Any) -> Any:
        moved = super()._apply(*args, **kwargs)  # type: ignore[misc]
        self.hold(False, torch.float32)  # what was packed is where the tensors were
        return moved

    def pack(self: Any) -> GroupedWeight:
        """See ``WeightHolder``; zeros and scales are turned, and the zeros unpacked."""
        layout: Layout = "gptq" if hasattr(self, "g_idx") else "awq"
        zeros = unpack_columns(self.qzeros, layout, self.bits)[:, : self.out_features]
        zeros = zeros + int(layout == "gptq" and self.qzero_format() == 1)
        scales = self.scales.t().contiguous()
        groups = None if layout == "awq" else _groups(self.g_idx, scales.shape[1])
        return GroupedWeight(
            self.qweight, zeros.t().contiguous(), scales, groups, layout, self.bits
        )


def _groups(g_idx: Tensor, num_groups: int) -> Tensor | None:
    """Each input's group, where groups are not equal runs of inputs."""
    inputs = torch.arange(len(g_idx), device=g_idx.device)
    is_run = len(g_idx) % num_groups == 0 and torch.equal(
        g_idx.long(), inputs // (len(g_idx) // num_groups)
    )
    return None if is_run else g_idx.int()


def ask_for_plain_layers(config: Any) -> bool:
    """Tells a model's config, if its weights are GPTQ's or AWQ's, with which layers to read them.

    Returns:
        Whether they are.
    """
    quantization: Any = getattr(config, "quantization_config", None) or {}
    kernel = _KERNELS.get(quantization.get("quant_method"))
    if kernel is None:
        return False
    quantization["backend"] = kernel
    import_gptqmodel()
    return True


def take_over(model: nn.Module, dtype: torch.dtype) -> int:
    """Exchanges the classes of gptqmodel's layers, in place.

    Args:
        model: As transformers loaded it.
        dtype: As asked for; beside AWQ on CUDA, transformers reads the rest in fp16 all the same.

    Returns:
        How many layers there were.
    """
    layers = [layer for layer in model.modules() if is_packed(layer)]
    for layer in layers:
        layer.__class__ = _ours(type(layer))  # type: ignore[arg-type]  # classes hash
        vars(layer).pop("dequantize_weight", None)  # compiled by the library, layer by layer
        layer.hold(False, dtype)  # type: ignore[operator]
    for parameter in model.parameters():
        if parameter.dtype == torch.float16:
            parameter.data = parameter.data.to(dtype)
    return len(layers)


@cache
def _ours(layer_class: type[nn.Module]) -> type[nn.Module]:
    """A layer's class with our product; it keeps its name, which libraries read."""
    return type(layer_class.__name__, (GroupedLinear, layer_class), {})


def is_packed(layer: nn.Module) -> bool:
    """Whether it is a linear layer of gptqmodel's."""
    library = sys.modules.get("gptqmodel.nn_modules.qlinear")
    return library is not None and isinstance(layer, library.BaseQuantLinear)

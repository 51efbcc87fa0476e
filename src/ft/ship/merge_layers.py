"""Adapter into weights, a layer at a time: in fp32, checked against the unmerged layer, cast once.

Goes through each PEFT layer's own ``merge``, so it serves every method that can be merged. The
check needs no knowledge of the method either: what the adapted layer computes before is what its
weight must compute alone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes
from ft.runtime.errors import FtError

# isort: split
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer

MAX_LAYER_ERROR = 1e-4
"""Largest difference of a merged layer's output, relative to its largest output, in fp32."""


@dataclass(frozen=True)
class MergedLayers:
    """How the layers of one model fared."""

    errors: list[float]
    """Of each layer, relative to its largest output."""
    untrained: list[str]
    """Layers whose adapter changed nothing."""


def merge_layers(
    model: Any, dtype: torch.dtype, on_layer: Callable[[int, int], None]
) -> MergedLayers:
    """Merges every adapted layer of a PEFT model over a plain base, in place.

    One layer at a time is held in fp32. The adapter's own modules stay until ``unload``.

    Args:
        model: A PeftModel in evaluation mode; none of its layers quantized.
        dtype: In which the merged weights are left.
        on_layer: Told how many layers of how many are done.

    Raises:
        FtError: a merged layer does not compute what it computed with its adapter.
    """
    layers = [(n, layer) for n, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    merged = MergedLayers([], [])
    with torch.no_grad(), _exact_products():
        for num_done, (name, layer) in enumerate(layers):
            on_layer(num_done, len(layers))
            merge = _merge_parameter if isinstance(layer, ParamWrapper) else _merge_layer
            error, is_changed = merge(layer, dtype)
            if not error <= MAX_LAYER_ERROR:  # a NaN is no pass
                raise FtError(
                    f"the merged {name} does not compute what the adapter does: relative error "
                    f"{error:.1e} in fp32"
                )
            merged.errors.append(error)
            if not is_changed:
                merged.untrained.append(name.removeprefix("base_model.model."))
    return merged


def _merge_layer(layer: Any, dtype: torch.dtype) -> tuple[float, bool]:
    """Merges one adapted layer in fp32 and leaves its weight in ``dtype``.

    The adapted layer's own output, unmerged, is what the merged weight is held against.

    Returns:
        The relative error, and whether the adapter changed the weight at all.
    """
    base = layer.get_base_layer()
    original = base.weight.detach().to(torch.float32)
    layer.to(torch.float32)
    base.weight = nn.Parameter(original.clone(), requires_grad=False)  # its own, if it was tied
    x = _random_input(base)
    expected = layer(x)
    layer.merge(safe_merge=True)
    actual = base(x)
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    is_changed = not torch.equal(base.weight, original)
    base.weight = nn.Parameter(base.weight.detach().to(dtype), requires_grad=False)
    return error.item(), is_changed


def _merge_parameter(layer: Any, dtype: torch.dtype) -> tuple[float, bool]:
    """The same for an adapter on a tensor itself: what it stands for with the adapter is compared.

    Such layers are nested, one around another, over one module of experts.
    """
    base, name = layer.get_base_layer(), layer.parameter_name
    original = getattr(base, name).detach().to(torch.float32)
    for matrices in (layer.lora_A, layer.lora_B):
        matrices.to(torch.float32)
    setattr(base, name, nn.Parameter(original.clone(), requires_grad=False))
    with layer._activate_lora(layer.active_adapters):
        expected = getattr(base, name).detach().clone()
    layer.merge(safe_merge=True)
    actual = getattr(base, name).detach()
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    is_changed = not torch.equal(actual, original)
    setattr(base, name, nn.Parameter(actual.to(dtype), requires_grad=False))
    return error.item(), is_changed


def _random_input(base: nn.Module) -> Tensor:
    weight = base.weight
    assert isinstance(weight, Tensor)
    generator = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        return torch.randint(len(weight), (64,), generator=generator).to(weight.device)
    width = base.in_features if isinstance(base, nn.Linear) else weight.shape[0]  # else: Conv1D
    return torch.randn(8, width, generator=generator).to(weight.device)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products of fp32 tensors in full fp32, for the length of the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

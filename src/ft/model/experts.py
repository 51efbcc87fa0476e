"""Experts of a mixture in 4 or 8 bits.

Mixtures hold all experts of a layer in one tensor [num_experts, out, in], which is no linear layer,
so bitsandbytes' layers pass over it. Here the tensor itself is held in few bits, and unfolded each
time it is used: bitsandbytes' parametrization for 4 bits, one of ours in its likeness for 8.

The weights are quantized once all of them are read, so the peak is that of plain experts; and after
an adapter is put on them, so that peft sees parameters as it would in the plain model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import ft.model.patches  # noqa: F401  # first: it silences the import of bitsandbytes

# isort: split
import bitsandbytes as bnb
from bitsandbytes.nn.parametrize import replace_parameter_4bit

_WRAPPED = ".base_layer"
"""What peft puts behind the path of experts, once for each adapted tensor of theirs."""


class _Unfold8bit(nn.Module):
    """int8 rows and their scales -> the weights that they stand for."""

    row_scales: Tensor

    def __init__(self, row_scales: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("row_scales", row_scales, persistent=False)
        self.dtype = dtype

    @torch.no_grad()
    def forward(self, rows: Tensor) -> Tensor:
        """[num_experts, out, in] of int8 -> the same shape in the weights' format."""
        flat = rows.reshape(-1, rows.shape[-1])
        weight: Tensor = bnb.functional.int8_vectorwise_dequant(flat, self.row_scales)
        return weight.reshape(rows.shape).to(self.dtype)


def quantize_experts(model: Any, bits: int) -> int:
    """Puts every tensor of experts into 4 bits (NF4, double quantization) or 8 (LLM.int8).

    In place.

    Returns:
        How many tensors that were.
    """
    found = [
        (module, name)
        for path, module in model.named_modules()
        if "experts" in path.removesuffix(_WRAPPED).removesuffix(_WRAPPED).rsplit(".", 1)[-1]
        for name, weight in module.named_parameters(recurse=False)
        if weight.ndim == 3 and weight.is_floating_point()
    ]
    for module, name in found:
        if bits == 4:
            replace_parameter_4bit(module, name, compress_statistics=True, quant_type="nf4")
            unfold = module.parametrizations[name][0]
            module.parametrizations[name].original.quant_state = unfold.quant_state  # its true size
        else:
            _replace_parameter_8bit(module, name)
    return len(found)


def dequantize_experts(model: Any, dtype: torch.dtype) -> None:
    """Replaces what ``quantize_experts`` made by the plain weights that it stands for, in place."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            weight = getattr(module, name).detach().to(dtype)
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
            setattr(module, name, nn.Parameter(weight, requires_grad=False))


def _replace_parameter_8bit(module: nn.Module, name: str) -> None:
    weight = getattr(module, name).data
    flat = weight.reshape(-1, weight.shape[-1]).to(torch.float16)
    rows, scales, _ = bnb.functional.int8_vectorwise_quant(flat)
    setattr(module, name, nn.Parameter(rows.reshape(weight.shape), requires_grad=False))
    unfold = _Unfold8bit(scales, weight.dtype)
    parametrize.register_parametrization(module, name, unfold, unsafe=True)

"""Checkpoints in few bits, written by hand from a tiny model: GPTQ's and AWQ's layouts, and FP8's.

The first two hold w = scale * (code - zero) in groups along the inputs, codes of 0..15 packed eight to an
int32, and differ in what is packed (GPTQ the inputs, AWQ the outputs), in the order within an int32
(AWQ's is shuffled) and in the zeros (GPTQ's first format stores zero - 1). Nothing is calibrated:
codes are rounded, which is all that a test of loading and training needs. FP8 is an 8-bit float for each weight and a scale for
each block of 32 x 32.

Sources: GPTQ https://arxiv.org/abs/2210.17323, AWQ https://arxiv.org/abs/2306.00978.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GROUP = 32
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
CONFIGS = {
    "gptq": {"desc_act": False, "sym": False, "checkpoint_format": "gptq"},
    "fp8": {"activation_scheme": "dynamic", "weight_block_size": [GROUP, GROUP]},
    "awq": {"version": "gemm", "zero_point": True, "modules_to_not_convert": None},
}


@dataclass(frozen=True)
class _Codes:
    codes: Tensor
    """Of each weight: [inputs, outputs], int32."""
    zeros: Tensor
    """The code of 0, of each group: [groups, outputs], int32, at least 1."""
    scales: Tensor
    """[groups, outputs], fp16."""

    def plain(self) -> Tensor:
        """The weight that they stand for, [outputs, inputs]: rounded to fp16, given in fp32."""
        zeros, scales = (part.repeat_interleave(GROUP, 0) for part in (self.zeros, self.scales))
        return (scales * (self.codes - zeros)).T.float().contiguous()


def _codes_of(weight: Tensor) -> _Codes:
    grouped = weight.float().T.unflatten(0, (-1, GROUP))
    low, high = grouped.amin(1).clamp(max=0), grouped.amax(1).clamp(min=0)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales).round().int().clamp(1, 15)
    codes = (grouped / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
    return _Codes(codes.flatten(0, 1).int(), zeros, scales)


def pack(values: Tensor, dim: int, *, bits: int = 4, order: list[int] | None = None) -> Tensor:
    """Values along a dimension into int32 words, the first, or the first of the order, lowest."""
    runs = values.long().unflatten(dim, (-1, 32 // bits)).movedim(dim + 1, -1)
    if order is not None:
        runs = runs[..., order]
    words = (runs << torch.arange(0, 32, bits)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def _tensors(method: str, held: _Codes) -> dict[str, Tensor]:
    if method == "awq":
        parts = {"qweight": held.codes, "qzeros": held.zeros}
        packed = {name: pack(part, 1, order=AWQ_ORDER) for name, part in parts.items()}
        return packed | {"scales": held.scales}
    return {
        "qweight": pack(held.codes, 0),
        "qzeros": pack(held.zeros - 1, 1),
        "scales": held.scales,
        "g_idx": torch.arange(held.codes.shape[0], dtype=torch.int32) // GROUP,
    }


def _floats_of(weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """FP8 and scales by name, and the weight that they stand for."""
    blocks = weight.unflatten(1, (-1, GROUP)).unflatten(0, (-1, GROUP))
    scales = blocks.abs().amax((1, 3), keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    floats = (blocks / scales).to(torch.float8_e4m3fn)
    parts = {"weight": floats.view(weight.shape), "weight_scale_inv": scales[:, 0, :, 0].clone()}
    return parts, (floats.float() * scales).view(weight.shape)


def save_few_bits(
    base: Path, folder: Path, method: Literal["gptq", "awq", "fp8"]
) -> dict[str, Tensor]:
    """Writes a tiny Llama's checkpoint again, its layers' weights in few bits.

    Args:
        base: The plain model's folder.
        folder: Of the new one; made here.
        method: The layout.

    Returns:
        The plain weights that the new one stands for, as a state dict.
    """
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": method,
        "bits": 4,
        "group_size": GROUP,
        **CONFIGS[method],
    }
    (folder / "config.json").write_text(json.dumps(config))
    plain = load_file(base / "model.safetensors")
    written = {}
    for name in [key for key in plain if key.endswith("_proj.weight")]:
        if method == "fp8":
            parts, plain[name] = _floats_of(plain[name])
        else:
            held = _codes_of(plain[name])
            parts, plain[name] = _tensors(method, held), held.plain()
        for part, tensor in parts.items():
            written[name.removesuffix("weight") + part] = tensor
    rest = {name: tensor for name, tensor in plain.items() if not name.endswith("_proj.weight")}
    save_file(written | rest, folder / "model.safetensors", {"format": "pt"})
    return plain

"""In which number formats a run computes, stores its weights, and why.

    asked for          CUDA >= 8.0     older CUDA          CPU              MPS
    nothing, auto      bf16            fp16 + scaler       fp32             fp32
    bf16: true         bf16            fp16 + scaler (n)   bf16             fp32 (n)
    bf16: full         bf16, weights   fp16 + scaler (n)   bf16, weights    fp32 (n)
    fp16: true         fp16 + scaler   fp16 + scaler       fp32 (n)         fp32 (n)
    both false         fp32            fp32                fp32             fp32

(n) = with a note to the user. Half precision means autocast over fp32 trainable weights: the frozen
base of an adapter is held in the compute format, a model that is trained whole in fp32. Only
``bf16: full`` trains bf16 weights, without autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ft.model.hardware import Hardware
from ft.spec.runspec import PrecisionSpec

NumberFormat = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Precision:
    """The formats of one run."""

    compute: NumberFormat = "fp32"
    """Of matrix products and activations."""
    autocast: Literal["no", "bf16", "fp16"] = "no"
    """What accelerate calls mixed_precision."""
    weights: NumberFormat = "fp32"
    """Of the base weights as loaded."""
    tf32: bool = False
    notes: tuple[str, ...] = ()

    @property
    def compute_dtype(self) -> torch.dtype:
        """``compute`` as torch's dtype."""
        return DTYPES[self.compute]

    @property
    def weights_dtype(self) -> torch.dtype:
        """``weights`` as torch's dtype."""
        return DTYPES[self.weights]

    @property
    def trainable_dtype(self) -> torch.dtype:
        """Of everything that the optimizer steps: fp32, unless half precision runs unscaled."""
        return self.compute_dtype if self.autocast == "no" else torch.float32


def choose_precision(spec: PrecisionSpec, hardware: Hardware, *, trains_all: bool) -> Precision:
    """The formats for what was asked for, on this hardware.

    Args:
        spec: The keys ``bf16``, ``fp16``, ``tf32``.
        hardware: What it will run on.
        trains_all: Whether all parameters are trained (no adapter).
    """
    compute, notes = _choose_compute(spec, hardware)
    tf32 = spec.tf32 in (True, "auto") and hardware.is_ampere_or_later
    if spec.tf32 is True and not tf32:
        notes.append(f"tf32: no effect on {_describe(hardware)}")
    if spec.bf16 == "full" and compute == "bf16":
        return Precision("bf16", "no", "bf16", tf32, tuple(notes))
    autocast: Literal["no", "bf16", "fp16"] = "no" if compute == "fp32" else compute
    weights: NumberFormat = "fp32" if trains_all else compute
    return Precision(compute, autocast, weights, tf32, tuple(notes))


def _choose_compute(spec: PrecisionSpec, hardware: Hardware) -> tuple[NumberFormat, list[str]]:
    wants_bf16 = spec.bf16 in (True, "full")
    is_auto = spec.bf16 == "auto" or (spec.bf16 is None and not spec.fp16)
    place = _describe(hardware)
    if hardware.kind == "mps":
        if wants_bf16 or spec.fp16:
            return "fp32", [f"half precision is not used on {place}: computing in fp32"]
        return "fp32", []
    if hardware.kind == "cpu":
        if wants_bf16:
            return "bf16", []
        if spec.fp16 and not is_auto:
            return "fp32", [
                "fp16 has no loss scaler on the CPU: computing in fp32 (bf16: true works)"
            ]
        return "fp32", []
    if wants_bf16 or is_auto:
        if hardware.supports_bf16:
            return "bf16", []
        if is_auto and spec.fp16 is False:
            return "fp32", []
        return "fp16", [f"{place} has no bf16: computing in fp16 with a loss scaler"] * wants_bf16
    return ("fp16" if spec.fp16 else "fp32"), []


def _describe(hardware: Hardware) -> str:
    return {"cpu": "the CPU", "mps": "MPS"}.get(hardware.kind) or hardware.name or "this card"

"""Layers that hold their weight in few bits, and for a while what it stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from ft.kernels.four_bit import FourBitWeight, with_plain_scales
from ft.kernels.packed import FrozenWeight, PackedWeight, plain_weight


class WeightHolder:
    """A layer with a weight in few bits, and for a while with what that stands for."""

    held_weight: Tensor | None = None
    _packed: PackedWeight | None = None

    def hold(self, dequantized: bool, dtype: torch.dtype) -> None:
        """Keeps the weight in a format, or lets it go again.

        Args:
            dequantized: Whether to keep it.
            dtype: The compute format.
        """
        packed = self.pack()
        held = None
        if dequantized:
            held = plain_weight(packed).to(dtype)
        elif isinstance(packed, FourBitWeight):
            packed = with_plain_scales(packed)
        object.__setattr__(self, "held_weight", held)
        object.__setattr__(self, "_packed", packed)

    def pack(self) -> PackedWeight:
        """The layer's weight: the library's own tensors. Each kind of layer has its own way."""
        raise NotImplementedError

    def weight_to_use(self) -> FrozenWeight:
        """The kept weight, or the packed one."""
        if self.held_weight is not None:
            return self.held_weight
        assert self._packed is not None
        return self._packed


def in_compute_format(x: Tensor) -> Tensor:
    """Under autocast, the input in its format."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x

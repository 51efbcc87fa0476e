"""Copies of a card's tensors on the host, in page-locked memory that is used again.

From a card into ordinary memory the driver copies twice, page by page; into page-locked memory it
copies at the speed of the bus. Locking pages takes longer than the copy, so it is done once, in few
large pieces, and the next copies of the same names go to the same places.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SLAB_BYTES = 64 * 2**20
"""A power of two: torch's allocator of page-locked memory rounds up to one."""
_ALIGNMENT = 64


class HostCopies:
    """Places on the host by name; what ``copy`` gave is valid until the name is copied again."""

    def __init__(self, slab_bytes: int = _SLAB_BYTES) -> None:
        self._slab_bytes = slab_bytes
        self._places: dict[str, Tensor] = {}
        self._slab: Tensor | None = None
        self._num_used = 0
        self._devices: set[torch.device] = set()

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """Begins a copy, contiguous and sharing nothing with ``tensor``; ``wait`` sees it done."""
        if tensor.is_cuda:
            self._devices.add(tensor.device)
        place = self._place(name, tensor)
        place.copy_(tensor.detach(), non_blocking=True)
        return place

    def wait(self) -> None:
        """Returns once every copy that was begun is whole."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()

    def _place(self, name: str, tensor: Tensor) -> Tensor:
        place = self._places.get(name)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            place = self._places[name] = self._cut(tensor)
        return place

    def _cut(self, tensor: Tensor) -> Tensor:
        """The next free piece of page-locked memory, in the shape of the tensor."""
        num_bytes = tensor.numel() * tensor.element_size()
        if self._slab is None or self._num_used + num_bytes > self._slab.numel():
            size = max(self._slab_bytes, num_bytes)
            self._slab = torch.empty(size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
            self._num_used = 0
        piece = self._slab[self._num_used : self._num_used + num_bytes]
        self._num_used += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
        return piece.view(tensor.dtype).view(tensor.shape)

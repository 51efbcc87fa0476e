"""Copies on the host: equal, of their own, and at the same places the next time."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft.model.host_copies import HostCopies

TENSORS = {
    "matrix": torch.arange(600.0).reshape(20, 30),
    "turned": torch.arange(600.0).reshape(20, 30).T,
    "half": torch.arange(33, dtype=torch.bfloat16),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "one": torch.tensor(3.0),
    "none": torch.zeros(0, 4),
    "larger than a slab": torch.arange(5000, dtype=torch.int64),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_copies_are_equal_and_separate_and_their_places_are_kept(device, tmp_path):
    copies = HostCopies(slab_bytes=4096)
    tensors = {name: tensor.clone().to(device) for name, tensor in TENSORS.items()}
    first = {name: copies.copy(name, tensor) for name, tensor in tensors.items()}
    copies.wait()
    for tensor in tensors.values():
        tensor.add_(1)
    save_file(first, tmp_path / "first.safetensors")
    found = load_file(tmp_path / "first.safetensors")
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name
        assert first[name].is_contiguous()
        assert first[name].device.type == "cpu"
        assert first[name].is_pinned() == (device == "cuda") or not tensor.numel()
    second = {name: copies.copy(name, tensor) for name, tensor in tensors.items()}
    copies.wait()
    assert all(second[name].data_ptr() == first[name].data_ptr() for name in tensors)
    assert all(torch.equal(second[name], tensors[name].cpu()) for name in tensors)


def test_a_name_may_come_again_in_another_shape():
    copies = HostCopies()
    copies.copy("a", torch.zeros(3))
    assert torch.equal(copies.copy("a", torch.ones(5)), torch.ones(5))
    assert copies.copy("a", torch.ones(5, dtype=torch.float16)).dtype == torch.float16

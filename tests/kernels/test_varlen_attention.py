"""The operation as a compiler sees it; what it computes is tested on a GPU, in test_varlen.py."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ft.kernels.varlen_attention import varlen_attention


def test_shapes_and_formats_of_output_and_gradients_are_known_without_values():
    with FakeTensorMode():
        query = torch.empty(10, 4, 64, dtype=torch.bfloat16, requires_grad=True)
        key, value = (
            torch.empty(10, 2, 64, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)
        )
        bounds = torch.empty(3, dtype=torch.int32)
        output = varlen_attention(
            query,
            key,
            value,
            cu_seq_lens=(bounds, bounds),
            max_lengths=(5, 5),
            window=(-1, 0),
            scale=0.125,
        )
        output.sum().backward()
        for tensor, like in ((output, query), (query.grad, query), (key.grad, key)):
            assert (tensor.shape, tensor.dtype) == (like.shape, torch.bfloat16)

"""What 4 bits stand for, and products with it."""

import pytest
import torch

from ft.kernels.four_bit import dequantize, dequantize_by_definition, with_plain_scales
from ft.kernels.frozen_linear import frozen_linear
from ft.kernels.lora_linear import lora_linear
from ft.model.frozen import packed_weight

# isort: split
import bitsandbytes as bnb


def make_layer(rows, columns, *, dtype=torch.float32, nested=True, storage=torch.uint8, bias=False):
    layer = bnb.nn.Linear4bit(
        columns,
        rows,
        bias=bias,
        compute_dtype=dtype,
        compress_statistics=nested,
        quant_type="nf4",
        quant_storage=storage,
    )
    generator = torch.Generator().manual_seed(rows + columns)
    layer.weight.data = torch.randn(rows, columns, generator=generator).to(dtype)
    return layer.to("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nested", [True, False])
def test_dequantizes_what_bitsandbytes_packed(dtype, nested):
    layer = make_layer(96, 192, dtype=dtype, nested=nested, storage=dtype)
    packed = packed_weight(layer)
    expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(dequantize(packed), expected)
    assert torch.equal(dequantize(packed, after=torch.ones(2)), expected)
    assert torch.equal(dequantize_by_definition(packed), expected)
    assert torch.equal(dequantize(with_plain_scales(packed)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_and_packed_are_the_same_bits_forward_and_backward(dtype):
    packed = packed_weight(make_layer(96, 192, dtype=dtype))
    bias = torch.randn(96)
    results = []
    for weight in (packed, dequantize(packed)):
        x = torch.arange(2 * 5 * 192.0).sin().view(2, 5, 192).to(dtype).requires_grad_()
        y = frozen_linear(x, weight, bias)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_nothing_of_the_matrix_is_kept_for_the_backward_pass():
    packed = packed_weight(make_layer(96, 192))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        frozen_linear(torch.randn(4, 192, requires_grad=True), packed)
    assert kept
    assert max(tensor.numel() for tensor in kept) == 96 * 192 // 2


def with_an_update(x, packed):
    """The same layer with LoRA."""
    return lora_linear(x, packed, None, torch.ones(2, 192) / 192, torch.ones(96, 2))


@pytest.mark.filterwarnings("ignore")  # the compiler's own code warns
@pytest.mark.parametrize("prepare", [lambda w: w, with_plain_scales], ids=["op", "definition"])
@pytest.mark.parametrize("product", [frozen_linear, with_an_update])
def test_compiled_both_passes_dequantize_and_nothing_of_the_matrix_is_kept(prepare, product):
    """A compiler sees the same matrix in both passes, and must not hold on to it."""
    packed = prepare(packed_weight(make_layer(96, 192)))
    x = torch.randn(4, 192, requires_grad=True)
    expected = product(x, packed)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), x)
    kept = []
    compiled = torch.compile(product, backend="aot_eager_decomp_partition")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = compiled(x, packed)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(grad, expected_grad)
    assert kept
    assert max(tensor.numel() for tensor in kept) == 96 * 192 // 2

"""Weights in groups of few bits are what GPTQ and AWQ mean by them, and products keep no matrix."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from few_bits import AWQ_ORDER, pack
from ft.kernels.frozen_linear import frozen_linear
from ft.kernels.grouped import GroupedWeight, dequantize_grouped, unpack_columns

INPUTS, OUTPUTS, GROUP = 64, 32, 16


def drawn(bits):
    """Codes [I, O], zeros and scales [G, O], of no real weight."""
    torch.manual_seed(bits)
    codes = torch.randint(0, 2**bits, (INPUTS, OUTPUTS))
    zeros = torch.randint(0, 2**bits, (INPUTS // GROUP, OUTPUTS))
    return codes, zeros, torch.rand(INPUTS // GROUP, OUTPUTS, dtype=torch.float16)


def weight_of(codes, zeros, scales, *, bits=4, layout="gptq", groups=None):
    is_awq = layout == "awq"
    words = pack(codes, 1, order=AWQ_ORDER) if is_awq else pack(codes, 0, bits=bits)
    turned = (zeros.short().t().contiguous(), scales.t().contiguous())
    return GroupedWeight(words, *turned, groups, layout, bits)


def meant(codes, zeros, scales, groups):
    """The definition, one input after another: [O, I]."""
    columns = [
        (codes[i] - zeros[group]) * scales[group].float() for i, group in enumerate(groups.tolist())
    ]
    return torch.stack(columns, dim=1).half()


RUNS = torch.arange(INPUTS) // GROUP


@pytest.mark.parametrize(
    ("layout", "bits"), [("gptq", 2), ("gptq", 4), ("gptq", 8), ("awq", 4)], ids=str
)
def test_a_matrix_is_code_less_zero_times_scale(layout, bits):
    parts = drawn(bits)
    matrix = dequantize_grouped(weight_of(*parts, bits=bits, layout=layout))
    torch.testing.assert_close(matrix, meant(*parts, RUNS), rtol=0, atol=0)


def test_inputs_may_belong_to_groups_in_any_order():
    parts, groups = drawn(4), RUNS[torch.randperm(INPUTS)]
    matrix = dequantize_grouped(weight_of(*parts, groups=groups.int()))
    torch.testing.assert_close(matrix, meant(*parts, groups), rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_zeros_lie_along_the_outputs(layout):
    _, zeros, _ = drawn(4)
    words = pack(zeros, 1, order=AWQ_ORDER if layout == "awq" else None)
    assert torch.equal(unpack_columns(words, layout, 4), zeros.short())


@pytest.mark.parametrize("layout", ["gptq", "awq"])
def test_the_product_and_its_gradient_are_those_of_the_matrix(layout):
    weight = weight_of(*drawn(4), layout=layout)
    bias = torch.randn(OUTPUTS)
    x, grad = torch.randn(3, 5, INPUTS), torch.randn(3, 5, OUTPUTS)
    results = []
    for function, form in ((frozen_linear, weight), (linear, dequantize_grouped(weight).float())):
        inputs = x.clone().requires_grad_()
        output = function(inputs, form, bias)
        output.backward(grad)
        results.append((output.detach(), inputs.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # the compiler's own code warns
@pytest.mark.parametrize("layout", ["gptq", "awq"])
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_no_matrix_is_kept_for_the_backward_pass(layout, is_compiled):
    weight = weight_of(*drawn(4), layout=layout)
    x = torch.randn(2, INPUTS, requires_grad=True)
    (expected,) = torch.autograd.grad(frozen_linear(x, weight).square().sum(), x)
    product = frozen_linear
    if is_compiled:
        product = torch.compile(frozen_linear, backend="aot_eager_decomp_partition")
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = product(x, weight)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(grad, expected)
    assert kept
    assert max(tensor.numel() for tensor in kept) == weight.codes.numel()

"""On a card: what inductor makes of the definitions gives the libraries' numbers."""

import pytest
import torch

from ft.kernels.four_bit import dequantize, with_plain_scales
from ft.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_eager,
    loss_and_gradient,
)
from ft.model.frozen import packed_weight
from ft.model.patches import apply_patches

# isort: split
import bitsandbytes as bnb

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _patches():
    apply_patches()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_compilers_kernel_dequantizes_to_the_same_bits(dtype):
    layer = bnb.nn.Linear4bit(
        4096, 512, bias=False, compute_dtype=dtype, quant_type="nf4", quant_storage=dtype
    )
    torch.manual_seed(0)
    layer.weight.data = torch.randn(512, 4096).to(dtype)
    packed = packed_weight(layer.cuda())
    expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(dequantize(packed), expected)
    compiled = torch.compile(dequantize)
    assert torch.equal(compiled(with_plain_scales(packed)), expected)
    gradient = torch.randn(8, 512, device="cuda", dtype=dtype)
    assert torch.equal(compiled(with_plain_scales(packed), after=gradient), expected)


def test_the_compiled_loss_is_that_of_the_logits():
    torch.manual_seed(0)
    hidden = torch.randn(700, 256, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(32000, 256, device="cuda", dtype=torch.bfloat16)
    targets = torch.randint(0, 32000, (700,), device="cuda")
    targets[::3] = -100
    results = []
    for loss in (
        linear_cross_entropy(
            hidden,
            weight,
            targets,
            max_chunk_logits=300 * 32000,
            softmax=torch.compile(loss_and_gradient),
        ),
        linear_cross_entropy_eager(hidden, weight, targets),
    ):
        (gradient,) = torch.autograd.grad(loss, hidden)
        results.append((loss.detach(), gradient))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=2e-2, atol=2e-2)

"""LoRA against its equation, forward and gradients."""

import pytest
import torch

from ft.kernels.lora_linear import lora_linear, lora_linear_eager, updates_of_one_input

NUM_IN, NUM_OUT, RANK = 24, 40, 4


def operands(dtype=torch.float64, *, with_bias):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x = draw(2, 7, NUM_IN).requires_grad_()
    a, b = draw(RANK, NUM_IN).requires_grad_(), draw(NUM_OUT, RANK).requires_grad_()
    return x, draw(NUM_OUT, NUM_IN), draw(NUM_OUT) if with_bias else None, a, b


@pytest.mark.parametrize("with_bias", [False, True])
def test_is_the_equation_with_its_gradients(with_bias):
    results = []
    for function in (lora_linear, lora_linear_eager):
        x, weight, bias, a, b = operands(with_bias=with_bias)
        y = function(x, weight, bias, a, b, scaling=0.5)
        y.sin().sum().backward()
        assert weight.grad is None
        results.append((y.detach(), x.grad, a.grad, b.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_factors_in_fp32_are_cast_and_get_gradients_in_fp32():
    x, weight, _, a, b = operands(torch.bfloat16, with_bias=False)
    a, b = (t.detach().float().requires_grad_() for t in (a, b))
    y = lora_linear(x, weight, None, a, b, scaling=0.5)
    y.float().square().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert a.grad.dtype == b.grad.dtype == torch.float32
    exact = [t.detach().double() for t in (x, weight, a, b)]
    expected = lora_linear_eager(exact[0], exact[1], None, *exact[2:], scaling=0.5)
    torch.testing.assert_close(y.double(), expected, rtol=2e-2, atol=0.2)


def test_dropout_touches_the_update_only_and_is_unbiased():
    x, weight, _, a, b = operands(with_bias=False)
    torch.manual_seed(0)
    frozen = x @ weight.t()
    update = lora_linear(x, weight, None, a, b, scaling=2.0) - frozen
    zero = lora_linear(x, weight, None, a, torch.zeros_like(b), scaling=2.0, dropout_p=0.5)
    torch.testing.assert_close(zero, frozen)
    draws = [
        lora_linear(x, weight, None, a, b, scaling=2.0, dropout_p=0.5) - frozen for _ in range(3000)
    ]
    mean = torch.stack(draws).mean(dim=0)
    assert (mean - update).norm() / update.norm() < 0.05


def assert_small_updates_count(product, device):
    """Rounded after the product, none of these updates would change any y."""
    x, weight, _, a, b = (
        None if t is None else t.detach().to(device)
        for t in operands(torch.bfloat16, with_bias=False)
    )
    x = torch.randn(4000, NUM_IN, device=device).bfloat16()
    b = b * 2**-9
    with torch.no_grad():
        y = product(x, weight, None, a, b)
    frozen = x.double() @ weight.double().t()
    update = (torch.nn.functional.linear(x, a).double() @ b.double().t()).bfloat16().double()
    assert (y == (frozen + update).bfloat16()).double().mean() > 0.98
    gained = y.double() - frozen
    assert abs((gained * update).sum() / update.square().sum() - 1) < 0.05


@pytest.mark.filterwarnings("ignore")  # the compiler's own code warns
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_an_update_below_half_a_step_of_the_format_is_not_lost(backend):
    assert_small_updates_count(torch.compile(lora_linear, backend=backend), "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_nor_is_it_on_a_gpu(backend):
    assert_small_updates_count(torch.compile(lora_linear, backend=backend), "cuda")


def test_what_comes_next_may_add_to_it_in_place():
    x, weight, _, a, b = operands(with_bias=False)
    y = lora_linear(x, weight, None, a, b)
    y += 1
    y.sum().backward()
    expected = torch.autograd.grad(lora_linear_eager(x, weight, None, a, b, scaling=1).sum(), a)
    torch.testing.assert_close(a.grad, *expected)


@pytest.mark.parametrize("num_rows", [(5, 5, 5), (6, 3, 3), (3, 3, 6), (4,)])
def test_updates_of_one_input_are_those_of_each_layer_with_their_gradients(num_rows):
    results = []
    for is_together in (True, False):
        generator = torch.Generator().manual_seed(0)
        shapes = [(2, 7, NUM_IN), (len(num_rows) * RANK, NUM_IN), (sum(num_rows), RANK)]
        x, a, b = (
            torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
            for shape in shapes
        )
        if is_together:
            updates = updates_of_one_input(x, a, b, num_rows)
        else:
            factors = zip(a.split(RANK), b.split(num_rows), strict=True)
            updates = [(x @ own_a.t() @ own_b.t()).flatten(0, 1) for own_a, own_b in factors]
        sum((i + 1) * update.sin().sum() for i, update in enumerate(updates)).backward()
        results.append((*(update.detach() for update in updates), x.grad, a.grad, b.grad))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)

"""Head and loss in one against cross-entropy of the logits, in value, gradients and memory."""

import pytest
import torch

from ft.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_eager

K, H, V = 37, 16, 50


def operands(dtype=torch.float64, *, trains_head=True):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(K, H, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(0, V, (K,), generator=generator)
    targets[::5] = -100
    return hidden.requires_grad_(), weight.requires_grad_(trains_head), targets


def gradients(function, *, scale=1.0, trains_head=True, dtype=torch.float64, **options):
    hidden, weight, targets = operands(dtype, trains_head=trains_head)
    loss = function(hidden, weight, targets, **options)
    (loss * scale).backward()
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("trains_head", [True, False])
@pytest.mark.parametrize("rows", [1, 8, K, 1000])
def test_is_the_loss_of_the_logits_whatever_the_chunks(rows, trains_head):
    got = gradients(
        linear_cross_entropy, scale=0.25, trains_head=trains_head, max_chunk_logits=rows * V
    )
    expected = gradients(linear_cross_entropy_eager, scale=0.25, trains_head=trains_head)
    assert got[0].dtype == torch.float32
    torch.testing.assert_close(got[0], expected[0].float())
    torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-6)
    if trains_head:
        torch.testing.assert_close(got[2], expected[2], rtol=1e-5, atol=1e-6)
    else:
        assert got[2] is None


def test_in_half_precision_it_is_as_near_to_the_truth_as_the_plain_way():
    exact = gradients(linear_cross_entropy_eager)
    plain = gradients(linear_cross_entropy_eager, dtype=torch.bfloat16)
    got = gradients(linear_cross_entropy, dtype=torch.bfloat16, max_chunk_logits=8 * V)
    assert abs(got[0] - exact[0]) <= 2 * abs(plain[0] - exact[0]) + 1e-2
    for which in (1, 2):
        error, usual = ((r[which].double() - exact[which]).norm() for r in (got, plain))
        assert error <= 2 * usual


def test_nothing_to_learn_is_a_loss_of_zero_without_gradients():
    hidden, weight, targets = operands()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_no_rows_at_all():
    hidden, weight, targets = operands()
    assert linear_cross_entropy(hidden[:0], weight, targets[:0]) == 0


def test_without_gradients_only_the_loss_is_made():
    hidden, weight, targets = operands()
    with torch.no_grad():
        got = linear_cross_entropy(hidden, weight, targets, max_chunk_logits=7 * V)
    torch.testing.assert_close(got, linear_cross_entropy_eager(hidden, weight, targets).float())
    assert not got.requires_grad


def test_the_logits_are_never_there_together():
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (result,) if isinstance(t, torch.Tensor))
            return result

    hidden, weight, targets = operands()
    with Watch():
        linear_cross_entropy(hidden, weight, targets, max_chunk_logits=4 * V)
    assert max(sizes) == max(V * H, 4 * V, K * H)

"""Many casts at once are the casts one by one, bit for bit, forward and backward."""

import torch

from ft.kernels.scaled_cast import scaled_cast

SHAPES, SCALES = [(4, 24), (40, 4), (7,), (3, 5)], [1.0, 0.5, 2.0, 1.0]


def draw():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).requires_grad_() for shape in SHAPES]


def losses(casts):
    return [cast.float().sin().sum() for cast in casts]


def test_values_and_gradients_are_those_of_each_cast_alone():
    ours, alone = draw(), draw()
    got = scaled_cast(ours, SCALES, torch.bfloat16)
    expected = [(t * s).to(torch.bfloat16) for t, s in zip(alone, SCALES, strict=True)]
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))
    sum(losses(got)).backward()
    sum(losses(expected)).backward()
    for mine, reference in zip(ours, alone, strict=True):
        assert mine.grad.dtype == torch.float32
        assert torch.equal(mine.grad, reference.grad)


def test_what_was_not_used_gets_no_gradient():
    tensors = draw()
    casts = scaled_cast(tensors, SCALES, torch.bfloat16)
    sum(losses(casts[1:3])).backward()
    assert [tensor.grad is None for tensor in tensors] == [True, False, False, True]


def test_gradients_of_several_passes_add_up():
    once, twice = draw(), draw()
    sum(losses(scaled_cast(once, SCALES, torch.bfloat16))).backward()
    for _ in range(2):
        sum(losses(scaled_cast(twice, SCALES, torch.bfloat16))).backward()
    for one, two in zip(once, twice, strict=True):
        assert torch.equal(2 * one.grad, two.grad)


def test_stacked_they_are_the_same_values_with_the_same_gradients():
    def draw_three():
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 24), (6, 5), (3, 5)]
        return [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]

    ours, alone, scales = draw_three(), draw_three(), [0.5, 1.0, 2.0]
    got = scaled_cast(ours, scales, torch.bfloat16, stacks=[1, 2])
    each = scaled_cast(alone, scales, torch.bfloat16)
    assert torch.equal(got[0], each[0])
    assert torch.equal(got[1], torch.cat(each[1:]))
    sum(losses(got)).backward()
    sum(losses([each[0], torch.cat(each[1:])])).backward()
    for mine, reference in zip(ours, alone, strict=True):
        assert torch.equal(mine.grad, reference.grad)


def test_a_stack_that_was_not_used_gives_its_tensors_no_gradient():
    tensors = [torch.ones(2, 3, requires_grad=True) for _ in range(3)]
    scaled_cast(tensors, [1.0] * 3, torch.bfloat16, stacks=[2, 1])[1].sum().backward()
    assert [tensor.grad is None for tensor in tensors] == [True, True, False]

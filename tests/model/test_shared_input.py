"""Layers that read one tensor make one product of it, and what they compute stays the same."""

import weakref

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch._inductor import metrics
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ft.data.batches import Padded
from ft.model.frozen import cast_factors_together, shorten_linears
from ft.model.shared_input import SharedInput
from model.test_execution import (
    CONFIGS,
    gradients,
    make_model,
    make_rows,
    of_torch,
    on_the_short_way,
    require_same,
)

# isort: split
from peft import LoraConfig, get_peft_model

LLAMA = CONFIGS["llama, grouped queries"]


def short_model(*, is_together, dtype=torch.float32, trained_dtype=torch.float64, **kwargs):
    """On the short way; fp64 factors are cast on the way to fp32 as fp32 ones are to bf16."""
    model = make_model(LLAMA, **kwargs)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(trained_dtype)
    execution, head, _ = on_the_short_way(model)
    if is_together:
        cast_factors_together(model, dtype)
    return model, execution, head


def groups_of(model):
    return {
        module.shared_input for module in model.modules() if getattr(module, "shared_input", None)
    }


class _Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        self.count += function in (aten.mm.default, aten.bmm.default, aten.addmm.default)
        return function(*args, **(kwargs or {}))


def test_loss_and_gradients_in_fp32_are_those_of_layer_by_layer():
    rows = make_rows([9, 21, 14, 30])
    plain, _, head = short_model(is_together=False)
    expected = gradients(plain, rows, layout=Padded(0), head=head)
    model, execution, head = short_model(is_together=True)
    got = gradients(model, rows, layout=Padded(0), head=head)
    assert len(groups_of(model)) == 2 * 3
    require_same(got, expected, rtol=1e-5, atol=1e-5)
    execution.set(recomputed_layers={0, 2}, kept_layers=())
    require_same(gradients(model, rows, layout=Padded(0), head=head), got, rtol=0, atol=0)


def test_in_bf16_they_are_as_near_to_fp32():
    rows = make_rows([9, 21, 14, 30])
    model, _, head = short_model(is_together=False)
    _, exact = gradients(model, rows, layout=Padded(0), head=head)
    distances = []
    for is_together in (False, True):
        model, _, head = short_model(
            is_together=is_together, dtype=torch.bfloat16, trained_dtype=torch.float32
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, got = gradients(model, rows, layout=Padded(0), head=head)
        distances.append(sum((got[n] - exact[n]).norm() / exact[n].norm() for n in exact))
    assert distances[1] < 1.1 * distances[0]


def test_a_layer_makes_eleven_products_less():
    """Of A three, of B two (queries have another shape than keys and values), backward six.

    The first layer needs no gradient of what it reads, so that two were not made anyway.
    """
    rows = make_rows([9, 21])
    counts = []
    for is_together in (False, True):
        model, _, head = short_model(is_together=is_together)
        with _Products() as products:
            gradients(model, rows, layout=Padded(0), head=head)
        counts.append(products.count)
    assert counts[0] - counts[1] == 11 * 3 - 2


@of_torch
def test_compiled_they_are_one_graph_for_all_layers_recomputed_or_not():
    plain, _, plain_head = short_model(is_together=False)
    model, execution, head = short_model(is_together=True)
    execution.set(recomputed_layers={1}, kept_layers=())
    execution.compile(backend="aot_eager", on_failure=pytest.fail)
    torch._dynamo.reset()
    counters.clear()
    for lengths in ([9, 21], [14, 30], [40, 7]):
        rows = make_rows(lengths)
        got = gradients(model, rows, layout=Padded(0), head=head)
        expected = gradients(plain, rows, layout=Padded(0), head=plain_head)
        require_same(got, expected, rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert len(groups_of(model)) == 2 * 3
    assert all(group._held is None and not group.is_wrong for group in groups_of(model))


@of_torch
@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.slow),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
            ],
        ),
    ],
)
def test_compiled_no_gradient_is_copied_to_where_the_others_are(device):
    """Generated kernels are no more than layer by layer: products write into their slices."""
    counts, results = [], []
    for is_together in (False, True):
        model, execution, _ = short_model(
            is_together=is_together, dtype=torch.bfloat16, trained_dtype=torch.float32
        )
        model.to(device)
        execution.compile(on_failure=pytest.fail)
        torch._dynamo.reset()
        metrics.reset()
        ids = torch.arange(1, 33, device=device)[None]
        with (
            inductor_config.patch(force_disable_caches=True),
            torch.autocast(device, dtype=torch.bfloat16),
        ):
            loss = model(input_ids=ids).logits.float().sin().sum()
            loss.backward()
        counts.append(metrics.generated_kernel_count)
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        results.append((loss.detach(), grads))
    assert 0 < counts[1] <= counts[0]
    for name, gradient in results[0][1].items():
        distance = (results[1][1][name] - gradient).norm() / gradient.norm()
        assert distance < 0.03, name


def test_nothing_is_kept_for_a_layer_that_is_through():
    """Recomputed layers need none of what they read: it is gone when the forward pass is over."""
    model, execution, _ = short_model(is_together=True)
    execution.set(recomputed_layers=range(3), kept_layers=())
    seen = []
    for name, module in model.named_modules():
        if name.endswith(("self_attn.v_proj", "mlp.up_proj")):
            module.register_forward_pre_hook(lambda _, args: seen.append(weakref.ref(args[0])))
    loss = model(input_ids=torch.arange(1, 9)[None]).logits.sum()
    assert len(seen) == 6
    assert all(reference() is None for reference in seen)
    loss.backward()
    assert len(seen) == 12
    assert all(reference() is None for reference in seen)


def test_a_pass_that_is_cut_short_leaves_the_groups_as_they_are():
    """What it held is gone with the next one, and no verdict on the group."""
    model, _, head = short_model(is_together=True)
    rows = make_rows([9, 21])
    expected = gradients(model, rows, layout=Padded(0), head=head)
    layer = model.base_model.model.model.layers[1].self_attn.k_proj

    def fail(module, args):
        raise RuntimeError("no memory left")

    hook = layer.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        gradients(model, rows, layout=Padded(0), head=head)
    hook.remove()
    with torch.no_grad():
        model(input_ids=torch.arange(1, 9)[None])
    require_same(gradients(model, rows, layout=Padded(0), head=head), expected, rtol=0, atol=0)
    assert len(groups_of(model)) == 2 * 3


def test_with_dropout_each_layer_draws_its_own():
    model, _, _ = short_model(is_together=True, dropout=0.5)
    assert not groups_of(model)


def test_a_layer_without_adapter_does_not_share():
    model, _, _ = short_model(is_together=True, targets=["q_proj", "v_proj", "up_proj"])
    assert [group.num_rows for group in groups_of(model)] == [(32, 16)] * 3


def test_a_layer_of_another_rank_does_not_share():
    config = LoraConfig(r=2, target_modules="all-linear", rank_pattern={"k_proj": 4})
    model = get_peft_model(nn.Sequential(_Odd(is_skipping=False)), config).train()
    shorten_linears(model)
    cast_factors_together(model, torch.bfloat16)
    odd = model.base_model.model[0]
    assert odd.k_proj.shared_input is None
    assert odd.q_proj.shared_input is odd.v_proj.shared_input


def test_members_that_come_with_another_tensor_get_the_update_of_that():
    x, y, a, b = (torch.randn(n, 8) for n in (5, 3, 6, 9))
    b = b[:, :2]
    group = SharedInput((3, 3, 3))
    for place, given in ((0, x), (1, y), (2, y), (2, x), (0, y), (0, y), (1, x)):
        update = group.update(place, given, lambda t: t, (a, b))
        expected = given @ a[2 * place : 2 * place + 2].t() @ b[3 * place : 3 * place + 3].t()
        torch.testing.assert_close(update, expected)
    group = SharedInput((3, 3, 3))
    for place in (2, 0, 1):
        assert (group._held is None) == (place == 2)
        group.update(place, x, lambda t: t, (a, b))
    assert group._held is None


class _Odd(nn.Module):
    """Its layers have the names of those that read one tensor; these do not."""

    def __init__(self, is_skipping):
        super().__init__()
        self.is_skipping = is_skipping
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        if self.is_skipping:  # as layers do that take another's keys
            return self.q_proj(x) * self.k_proj(x)
        y = x.sin()
        return self.q_proj(x) * self.k_proj(y) + self.v_proj(y)


class _Recomputed(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


def odd_gradients(model):
    model.zero_grad()
    torch.manual_seed(1)
    y = model(torch.randn(2, 5, 8, requires_grad=True))
    y.sin().sum().backward()
    trained = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return y.detach(), {n: g.clone() for n, g in trained.items() if g is not None and g.any()}


@pytest.mark.parametrize("is_recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("is_skipping", [False, True], ids=["two tensors", "one is never asked"])
def test_a_wrong_guess_costs_nothing_but_a_pass(is_skipping, is_recomputed):
    models = []
    for outer in (nn.Sequential, _Recomputed if is_recomputed else nn.Sequential):
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        models.append(get_peft_model(outer(_Odd(is_skipping)), config).train())
        for parameter in models[-1].parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.double()
        assert shorten_linears(models[-1]) == 3
    plain, model = models
    cast_factors_together(model, torch.float32)
    expected = odd_gradients(plain)
    (group,) = groups_of(model)
    for _ in range(3):
        got = odd_gradients(model)
        require_same(got, expected, rtol=1e-5, atol=1e-6)
        assert group.is_wrong
    assert not groups_of(model)

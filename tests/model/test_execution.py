"""How layers are run changes nothing that is computed, and is compiled once for all of them."""

import copy
import traceback

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)

from ft.data.batches import Flat, PackedRow, Padded
from ft.evaluate.objective import SupervisedTuning
from ft.model.attention import VARLEN
from ft.model.execution import Execution
from ft.model.frozen import cast_factors_together, shorten_linears
from ft.model.head import fuse_head
from ft.model.patches import apply_patches
from ft.model.varlen import register_varlen

# isort: split
import numpy as np
from peft import LoraConfig, get_peft_model

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CONFIGS = {
    "llama, grouped queries": LlamaConfig(**SMALL),
    "llama, tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "qwen2, biases": Qwen2Config(**SMALL),
    "gemma2, capped logits": Gemma2Config(**SMALL, sliding_window=64),
    "gpt2, Conv1D": GPT2Config(vocab_size=96, n_embd=32, n_layer=3, n_head=4, **NO_DROPOUT),
}


def make_rows(lengths):
    rng = np.random.default_rng(0)
    rows = []
    for length in lengths:
        ids = rng.integers(1, 96, length).astype(np.int32)
        labels = ids.copy()
        labels[: length // 2] = -100
        rows.append(PackedRow(ids, labels, (length,)))
    return rows


def make_model(
    config, *, adapter=True, attention="sdpa", dropout=0.0, saved=None, targets="all-linear"
):
    register_varlen()
    apply_patches()
    torch.manual_seed(0)
    attention = "eager" if isinstance(config, Gemma2Config) else attention
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention)
    if adapter:
        is_conv1d = isinstance(config, GPT2Config)
        model = get_peft_model(
            model,
            LoraConfig(
                r=4,
                lora_alpha=8,
                lora_dropout=dropout,
                target_modules=["c_attn", "c_fc"] if is_conv1d else targets,
                init_lora_weights=False,
                fan_in_fan_out=is_conv1d,
                modules_to_save=saved,
                task_type="CAUSAL_LM",
            ),
        )
    return model.train()


def on_the_short_way(model):
    """What `build_model` does to a model that is to be trained."""
    num_short = shorten_linears(model)
    return Execution(model), fuse_head(model), num_short


def gradients(model, rows, *, layout, head=None):
    model.zero_grad()
    objective = SupervisedTuning(layout, has_loss_head=head is not None)
    loss = objective.loss_sum(model, layout.batch(rows))
    loss.backward()
    return loss.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad
    }


def require_same(got, expected, **tolerance):
    torch.testing.assert_close(got[0], expected[0], **tolerance)
    assert got[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(got[1][name], gradient, **tolerance, msg=name)


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_short_way_is_the_plain_way(config, adapter):
    """Loss and every gradient to 1e-5 in fp32; recomputed layers too."""
    rows = make_rows([9, 21, 14, 30])
    plain = make_model(config, adapter=adapter)
    expected = gradients(plain, rows, layout=Padded(0))
    short = make_model(config, adapter=adapter)
    execution, head, num_short = on_the_short_way(short)
    assert len(execution.layers) == 3
    assert (head is None) == isinstance(config, Gemma2Config), "capped logits are more than a head"
    assert (num_short > 0) == (adapter and not isinstance(config, GPT2Config))
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    require_same(gradients(short, rows, layout=Padded(0), head=head), expected, **tolerance)
    execution.set(recomputed_layers={0, 2}, kept_layers=())
    require_same(gradients(short, rows, layout=Padded(0), head=head), expected, **tolerance)


@pytest.mark.parametrize("cut", [[4], [2, 2], [1, 1, 1, 1]], ids=["1x4", "2x2", "4x1"])
def test_however_a_step_is_cut_the_gradients_are_those_of_the_padded_plain_way(cut):
    rows = make_rows([9, 21, 14, 30])
    plain = make_model(CONFIGS["llama, grouped queries"])
    expected = gradients(plain, rows, layout=Padded(0))
    short = make_model(CONFIGS["llama, grouped queries"], attention=VARLEN)
    _, head, _ = on_the_short_way(short)
    parts, start = [], 0
    for size in cut:
        parts.append(gradients(short, rows[start : start + size], layout=Flat(64), head=head))
        start += size
    total = sum(loss for loss, _ in parts)
    sums = {name: sum(grads[name] for _, grads in parts) for name in parts[0][1]}
    require_same((total, sums), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_recomputed", [False, True], ids=["kept", "recomputed"])
def test_casting_all_factors_at_once_is_casting_each_in_its_layer(is_recomputed):
    """Bit for bit, where no layers share their input (``test_shared_input`` has those)."""
    rows = make_rows([9, 21, 14, 30])
    results = []
    for is_together in (False, True):
        model = make_model(
            CONFIGS["llama, grouped queries"], targets=["k_proj", "o_proj", "up_proj"]
        )
        execution, head, _ = on_the_short_way(model)
        execution.set(recomputed_layers={1} if is_recomputed else (), kept_layers=())
        if is_together:
            cast_factors_together(model, torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results.append(gradients(model, rows, layout=Padded(0), head=head))
    require_same(results[1], results[0], rtol=0, atol=0)


def test_a_model_that_is_asked_uses_the_factors_as_they_are_now():
    model = make_model(CONFIGS["llama, grouped queries"])
    on_the_short_way(model)
    cast_factors_together(model, torch.bfloat16)
    ids = torch.arange(1, 9)[None]

    def ask():
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return model(input_ids=ids).logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=ids).logits.sum().backward()
    before = ask()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert not torch.equal(before, ask())
    with model.disable_adapter():
        without = ask()
    assert torch.equal(without, ask())


def test_a_trained_head_gets_its_gradient():
    rows, config = make_rows([9, 21]), CONFIGS["llama, grouped queries"]
    plain = make_model(config, saved=["lm_head", "embed_tokens"])
    expected = gradients(plain, rows, layout=Padded(0))
    short = make_model(config, saved=["lm_head", "embed_tokens"])
    _, head, _ = on_the_short_way(short)
    assert head is not None
    assert any("lm_head" in name for name in expected[1])
    require_same(
        gradients(short, rows, layout=Padded(0), head=head), expected, rtol=1e-5, atol=1e-5
    )


def test_without_targets_the_head_gives_logits():
    model = make_model(CONFIGS["llama, grouped queries"])
    ids = torch.arange(5)[None]
    expected = model(input_ids=ids).logits
    _, head, _ = on_the_short_way(model)
    assert model(input_ids=ids, targets=ids).logits.ndim == 0
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    assert head.targets is None


def test_names_of_weights_and_disabling_stay_pefts():
    model = make_model(CONFIGS["qwen2, biases"])
    names, ids = list(model.state_dict()), torch.arange(5)[None]
    expected = []
    for short in (False, True):
        if short:
            on_the_short_way(model)
        with model.disable_adapter():
            expected.append(model(input_ids=ids).logits)
    assert list(model.state_dict()) == names
    assert torch.equal(*expected)
    before = model(input_ids=ids).logits
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)


of_torch = pytest.mark.filterwarnings("ignore")
"""The compiler's own code warns, and is not ours to mend."""


@of_torch
@pytest.mark.parametrize("recomputed", [False, True], ids=["", "recomputed"])
def test_one_graph_serves_all_layers_and_lengths(recomputed):
    """Compiled ahead of time (without code generation), and the same numbers."""
    config = CONFIGS["llama, grouped queries"]
    plain, model = make_model(config), make_model(config)
    execution, head, _ = on_the_short_way(model)
    execution.set(recomputed_layers=range(3) if recomputed else (), kept_layers=())
    execution.compile(backend="aot_eager", on_failure=pytest.fail)
    torch._dynamo.reset()
    counters.clear()
    for lengths in ([9, 21], [14, 30], [40, 7], [11, 12]):
        rows = make_rows(lengths)
        got = gradients(model, rows, layout=Padded(0), head=head)
        require_same(got, gradients(plain, rows, layout=Padded(0)), rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@of_torch
def test_dropout_is_drawn_from_the_seed_when_compiled_and_recomputed():
    model = make_model(CONFIGS["llama, grouped queries"], dropout=0.5)
    execution, head, _ = on_the_short_way(model)
    execution.set(recomputed_layers={0, 1}, kept_layers=())
    execution.compile(backend="aot_eager")
    rows = make_rows([9, 21])
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(gradients(model, rows, layout=Padded(0), head=head))
    require_same(losses[1], losses[0], rtol=0, atol=0)
    assert losses[2][0] != losses[0][0]


def test_a_layer_that_cannot_be_compiled_runs_as_it_is():
    """Its error does not leave the recomputed function: torch 2.11's checkpoint would not recover."""
    told = []

    def broken_backend(graph, inputs):
        raise ValueError("no such card")

    def tell(words):
        told.append(words)
        assert any(frame.name == "checkpoint" for frame in traceback.extract_stack())

    rows, config = make_rows([9, 21]), CONFIGS["llama, grouped queries"]
    expected = gradients(make_model(config), rows, layout=Padded(0))
    model = make_model(config)
    execution, head, _ = on_the_short_way(model)
    execution.set(recomputed_layers={0, 1}, kept_layers=())
    execution.compile(backend=broken_backend, on_failure=tell)
    got = gradients(model, rows, layout=Padded(0), head=head)
    require_same(got, expected, rtol=1e-5, atol=1e-5)
    assert len(told) == 1
    assert "no such card" in told[0]
    assert not execution.is_compiled


@of_torch
def test_many_models_in_one_process_are_compiled_alike():
    """Torch stops compiling one function after so many times; each model has a function of its own."""
    torch._dynamo.reset()
    counters.clear()
    rows = make_rows([9, 21])
    for _ in range(3):
        model = make_model(CONFIGS["llama, grouped queries"])
        execution, head, _ = on_the_short_way(model)
        with torch._dynamo.config.patch(recompile_limit=1):
            execution.compile(backend="eager", on_failure=pytest.fail)
            assert torch._dynamo.config.recompile_limit > 8
            torch._dynamo.config.recompile_limit = 1
            gradients(model, rows, layout=Padded(0), head=head)
            gradients(model, rows, layout=Padded(0), head=head)
    assert counters["stats"]["unique_graphs"] == 3

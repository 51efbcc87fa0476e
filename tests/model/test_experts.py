"""Experts of a mixture in few bits: near the plain ones, trainable around, and folded out again."""

import pytest
import torch

import tiny
from ft.model import Hardware, Precision, build_model, load_tokenizer, load_trained
from ft.model.experts import quantize_experts
from ft.spec.runspec import AdapterSpec, ModelSpec

CPU = Hardware("cpu", supports_bf16=True)
HALF = Precision("bf16", "bf16", "bf16")
IDS = torch.arange(3, 19)[None]
LORA = AdapterSpec(adapter="lora", lora_r=4, lora_target_modules=("q_proj", "v_proj"))


def parametrized(model):
    """The tensors that are held in few bits, by their last names."""
    return {name for module in model.modules() for name in getattr(module, "parametrizations", ())}


@pytest.fixture(scope="module")
def tiny_mixture(tmp_path_factory):
    return tiny.save_tiny_mixture(tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize(("bits", "error"), [(4, 0.25), (8, 0.02)])
def test_what_is_unfolded_is_near_what_was_folded(bits, error):
    model = tiny.tiny_mixture().bfloat16()
    experts = model.model.layers[1].mlp.experts
    plain = experts.down_proj.detach().clone()
    assert quantize_experts(model, bits) == 4
    assert experts.parametrizations.down_proj.original.dtype in (torch.uint8, torch.int8)
    assert experts.down_proj.shape == plain.shape
    assert (experts.down_proj - plain).abs().max() < error * plain.abs().max()


@pytest.mark.parametrize("bits", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_an_adapter_learns_beside_them_and_is_read_back(tiny_mixture, tmp_path, bits):
    spec = ModelSpec(base_model=str(tiny_mixture), quantize_moe_experts=True, **bits)
    tokenizer = load_tokenizer(spec)
    loaded = build_model(spec, LORA, HALF, None, tokenizer, hardware=CPU, seed=1)
    assert parametrized(loaded.model) == {"gate_up_proj", "down_proj"}
    optimizer = torch.optim.AdamW([p for _, p in loaded.trainable_parameters()], lr=1e-2)
    losses = []
    for _ in range(4):
        with loaded.autocast():
            loss = loaded.model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    loaded.save_weights(tmp_path)
    with loaded.inference() as model:
        trained_logits = model(IDS).logits
    for form in ("trained", "dequantized"):
        again = load_trained(tmp_path, spec, LORA, HALF, hardware=CPU, form=form)
        assert bool(parametrized(again.model)) is (form == "trained")
        with again.inference() as model:
            torch.testing.assert_close(model(IDS).logits, trained_logits, rtol=0, atol=0.05)


def test_the_experts_are_counted_by_their_weights(tiny_mixture):
    spec = ModelSpec(base_model=str(tiny_mixture), quantize_moe_experts=True, load_in_4bit=True)
    tokenizer = load_tokenizer(spec)
    loaded = build_model(spec, LORA, HALF, None, tokenizer, hardware=CPU, seed=1)
    plain = tiny.tiny_mixture().num_parameters()
    assert loaded.num_parameters == plain + loaded.num_trainable

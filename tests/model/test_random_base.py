from __future__ import annotations

import pytest
import torch

from ft.model import Hardware, Head, Precision, check_base, load_base
from ft.spec.classification import Classification
from ft.spec.runspec import ModelSpec
from tiny import save_tiny_llama, save_tiny_mixture

CPU = Hardware("cpu", supports_bf16=True)
BF16 = Precision("bf16", "bf16", "bf16")
SAVED = {
    "llama": save_tiny_llama,
    "tied": lambda folder: save_tiny_llama(folder, tie=True),
    "mixture": save_tiny_mixture,
}


def facts(tensor):
    stands_for = getattr(getattr(tensor, "quant_state", None), "dtype", None)
    kind = type(tensor), tensor.dtype, stands_for
    return *kind, tensor.shape, tensor.device, tensor.requires_grad


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("bits", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}])
def test_a_drawn_base_is_what_reading_one_gives_but_for_its_numbers(tmp_path, name, bits):
    folder = SAVED[name](tmp_path / name)
    read = load_base(ModelSpec(base_model=str(folder), **bits), BF16, hardware=CPU).model
    (folder / "model.safetensors").unlink()
    spec = ModelSpec(base_model=str(folder), reinit_weights=True, **bits)
    check_base(spec)
    drawn = load_base(spec, BF16, hardware=CPU, draws_on_device=True).model

    expected = {key: facts(tensor) for key, tensor in read.named_parameters()}
    assert {key: facts(tensor) for key, tensor in drawn.named_parameters()} == expected
    for key, buffer in read.named_buffers():  # the angles of RoPE, which nobody may draw
        assert torch.equal(drawn.get_buffer(key), buffer), key
    for flag in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        assert getattr(drawn, flag, None) == getattr(read, flag, None)
    logits = drawn(torch.arange(10)[None]).logits
    assert logits.isfinite().all()
    assert logits.float().std() > 0


def test_the_weights_are_spread_as_the_config_says_and_follow_from_the_seed(tmp_path):
    folder = save_tiny_llama(tmp_path)
    spec = ModelSpec(base_model=str(folder), reinit_weights=True, random_init_seed=5)
    state = torch.random.get_rng_state()
    first, again = (
        load_base(spec, Precision(), hardware=CPU, draws_on_device=True).model for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = first.model.layers[1].mlp.up_proj.weight
    assert torch.equal(weight, again.model.layers[1].mlp.up_proj.weight)
    assert weight.detach().std().item() == pytest.approx(first.config.initializer_range, rel=0.05)


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_classifiers_body_is_held_in_few_bits_and_its_head_is_not(tiny_encoders, bits):
    spec = ModelSpec(
        base_model=str(tiny_encoders["distilbert"]), reinit_weights=True, **{bits: True}
    )
    head = Head(Classification("single_label_classification", ("bad", "good")), seed=0)
    model = load_base(spec, BF16, hardware=CPU, head=head).model
    assert getattr(model, f"is_loaded_in_{bits.removeprefix('load_in_')}")
    assert type(model.classifier) is torch.nn.Linear
    assert type(model.distilbert.transformer.layer[0].attention.q_lin) is not torch.nn.Linear
    assert model(torch.arange(10)[None]).logits.isfinite().all()


@pytest.mark.gpu
def test_nf4_is_made_on_the_card(tmp_path):
    from ft.model import probe_hardware

    folder = save_tiny_llama(tmp_path)
    spec = ModelSpec(base_model=str(folder), reinit_weights=True, load_in_4bit=True)
    hardware = probe_hardware()
    drawn = load_base(spec, BF16, hardware=hardware, draws_on_device=True).model
    read = load_base(
        ModelSpec(base_model=str(folder), load_in_4bit=True), BF16, hardware=hardware
    ).model
    expected = {key: facts(tensor) for key, tensor in read.named_parameters()}
    assert {key: facts(tensor) for key, tensor in drawn.named_parameters()} == expected
    assert drawn(torch.arange(10, device="cuda")[None]).logits.isfinite().all()

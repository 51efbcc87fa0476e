"""Llama 4 checkpoints whose experts are linear layers: the same function, quantized like others."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Llama4ForCausalLM, Llama4TextConfig

import tiny
from ft.model import Hardware, Precision, build_model, load_base, load_tokenizer
from ft.model.llama4 import linearized_experts
from ft.runtime import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec

CPU = Hardware("cpu", supports_bf16=True)
IDS = torch.arange(3, 19)[None]


@pytest.fixture(scope="module")
def fused() -> Llama4ForCausalLM:
    torch.manual_seed(0)
    tokenizer = tiny.chatml_tokenizer()
    config = Llama4TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        intermediate_size_mlp=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Llama4ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(fused, tmp_path_factory):
    """The same weights, each expert as three linear layers."""
    with linearized_experts(fused.config):
        linear = Llama4ForCausalLM(fused.config)
    state = {}
    for name, tensor in fused.state_dict().items():
        path, _, last = name.rpartition(".")
        if last == "gate_up_proj":
            gate, up = tensor.chunk(2, dim=-1)
            parts = {"gate_projs": gate, "up_projs": up}
        else:
            parts = {"down_projs": tensor} if path.endswith("experts") else {}
        state |= {
            f"{path}.{part}.{index}.weight": each.T.contiguous()
            for part, experts in parts.items()
            for index, each in enumerate(experts)
        } or {name: tensor}
    linear.load_state_dict(state)
    folder = tmp_path_factory.mktemp("llama4")
    linear.save_pretrained(folder)
    tiny.chatml_tokenizer().save_pretrained(folder)
    return folder


def test_they_compute_what_the_fused_ones_do(fused, folder):
    spec = ModelSpec(base_model=str(folder), llama4_linearized_experts=True)
    model = load_base(spec, Precision(), hardware=CPU).model
    torch.testing.assert_close(model(IDS).logits, fused(IDS).logits)


@pytest.mark.parametrize("is_quantized_on_disk", [False, True])
def test_they_are_held_in_4_bits_and_get_adapters(folder, tmp_path, is_quantized_on_disk):
    keys = {"llama4_linearized_experts": True, "load_in_4bit": True}
    spec = ModelSpec(base_model=str(folder), **keys)
    half = Precision("bf16", "bf16", "bf16")
    if is_quantized_on_disk:
        load_base(spec, half, hardware=CPU).model.save_pretrained(tmp_path)
        tiny.chatml_tokenizer().save_pretrained(tmp_path)
        spec = ModelSpec(base_model=str(tmp_path), **keys)
    adapter = AdapterSpec(adapter="qlora", lora_r=4, lora_target_linear=True)
    loaded = build_model(spec, adapter, half, None, load_tokenizer(spec), hardware=CPU, seed=1)
    expert = loaded.model.get_base_model().model.layers[0].feed_forward.experts.up_projs[3]
    assert expert.base_layer.weight.dtype == torch.bfloat16  # the storage of 4-bit weights
    assert expert.base_layer.weight.quant_state is not None
    with loaded.autocast():
        loaded.model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for name, p in loaded.trainable_parameters() if "lora_B" in name)


def test_a_fused_checkpoint_lacks_them(fused, tmp_path):
    fused.save_pretrained(tmp_path)
    spec = ModelSpec(base_model=str(tmp_path), llama4_linearized_experts=True)
    with pytest.raises(UserError, match=r"lacks .* weights"):
        load_base(spec, Precision(), hardware=CPU)
    AutoModelForCausalLM.from_pretrained(tmp_path)  # without the key it is read as ever


def test_another_model_is_an_error(tiny_llama):
    spec = ModelSpec(base_model=str(tiny_llama), llama4_linearized_experts=True)
    with pytest.raises(UserError, match="the base is llama, no Llama 4"):
        load_base(spec, Precision(), hardware=CPU)

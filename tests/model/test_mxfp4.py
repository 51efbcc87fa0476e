"""A checkpoint in MXFP4, as gpt-oss is published: read as the plain weights that it stands for."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig, GptOssForCausalLM

from ft.model import Hardware, Precision
from ft.model.base import load_base
from ft.spec.runspec import ModelSpec

FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""Of a sign bit, two bits of exponent and one of fraction."""
SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def to_mxfp4(shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random blocks and scales of experts [num, in, out], and the weights that they stand for."""
    num, num_in, num_out = shape
    codes = torch.randint(0, 16, (num, num_out, num_in // 32, 16, 2), dtype=torch.uint8)
    scales = torch.randint(118, 124, (num, num_out, num_in // 32), dtype=torch.uint8)
    values = FP4[codes.long()].flatten(-2) * torch.exp2(scales.float() - 127)[..., None]
    plain = values.reshape(num, num_out, num_in).transpose(1, 2).bfloat16()
    return codes[..., 0] | codes[..., 1] << 4, scales, plain


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Its folder, and the weights that the experts should have."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt_oss")
    GptOssForCausalLM(GptOssConfig(**SIZES)).bfloat16().save_pretrained(folder)
    weights, expected = load_file(folder / "model.safetensors"), {}
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        blocks, scales, expected[name] = to_mxfp4(weights.pop(name).shape)
        weights |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                   "model.embed_tokens", "lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder, expected


def test_the_experts_are_those_that_the_blocks_stand_for(checkpoint):
    folder, expected = checkpoint
    spec = ModelSpec(
        base_model=str(folder),
        model_quantization_config="Mxfp4Config",
        model_quantization_config_kwargs={"dequantize": True},
    )
    precision = Precision("bf16", "bf16", "bf16")
    hardware = Hardware("cpu", supports_bf16=True)
    model = load_base(spec, precision, hardware=hardware).model
    assert model.config._attn_implementation == "eager"  # gpt-oss has no sdpa
    weights = dict(model.named_parameters())
    assert len(expected) == 4
    for name, weight in expected.items():
        assert torch.equal(weights[name], weight)
    assert not hasattr(model.config, "quantization_config")
    ids = torch.arange(8)[None]
    model(ids, labels=ids).loss.backward()
    assert weights["model.layers.0.mlp.experts.down_proj"].grad is not None

from __future__ import annotations

import pytest
from transformers import AutoConfig, LlamaConfig

from ft.bench.limits import AT_HAND, PassLimits
from ft.bench.workload import PassShape, Product, read_workload
from tiny import save_tiny_mixture

LLAMA_2_7B = LlamaConfig(num_hidden_layers=32)


def test_a_llama_is_its_linear_layers_its_head_and_its_attention():
    workload = read_workload(LLAMA_2_7B, {})
    assert set(workload.products) == {
        Product(4096, 4096, 4 * 32, is_head=False, is_trained=False),
        Product(4096, 11008, 2 * 32, is_head=False, is_trained=False),
        Product(11008, 4096, 32, is_head=False, is_trained=False),
        Product(4096, 32000, 1, is_head=True, is_trained=False),
    }
    assert (workload.attention.num_heads, workload.attention.head_dim) == (32, 128)
    assert not workload.has_experts


def test_arithmetic_by_hand():
    shape = PassShape(num_tokens=4096, num_trained_tokens=1024, num_records=2)
    layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    attention = 7 * 32 * 4096 * 2 * 2048**2
    frozen = read_workload(LLAMA_2_7B, {}).arithmetic(shape)
    assert frozen == 4 * layers * 4096 + 4 * 4096 * 32000 * 1024 + attention
    adapted = read_workload(LLAMA_2_7B, {"base_model.model.layer.lora_A.weight": 10**7}).arithmetic(
        shape
    )
    assert adapted - frozen == 6 * 10**7 * 4096


def test_a_trained_weight_has_one_product_more_whoever_names_it():
    config = LlamaConfig(num_hidden_layers=1)
    shape = PassShape(100, 100, 1)
    frozen = read_workload(config, {}).arithmetic(shape)
    for name in (
        "lm_head.weight",
        "base_model.model.lm_head.modules_to_save.default.weight",
        "base_model.model.lm_head.base_layer.weight",
    ):
        trained = read_workload(config, {name: 4096 * 32000})
        assert trained.arithmetic(shape) - frozen == 2 * 4096 * 32000 * 100


def test_a_head_that_is_tied_to_trained_embeddings_is_trained():
    config = LlamaConfig(num_hidden_layers=1, tie_word_embeddings=True)
    workload = read_workload(config, {"model.embed_tokens.weight": 4096 * 32000})
    assert Product(4096, 32000, 1, is_head=True, is_trained=True) in workload.products
    assert workload.num_adapter_parameters == 0


def test_experts_are_noticed(tmp_path):
    config = AutoConfig.from_pretrained(save_tiny_mixture(tmp_path))
    assert read_workload(config, {}).has_experts


def test_ceilings_by_hand():
    limits = PassLimits(
        forward_s=2.0,
        backward_s=3.0,
        attention_forward_s=1.0,
        attention_backward_s=2.0,
        dequantization_s=0.5,
    )
    assert limits.ceilings(num_tokens=720) == {
        AT_HAND: 90,
        "dequantized twice a pass, no recompute": 80,
        "every layer recomputed": pytest.approx(720 / 12.5),
    }

from __future__ import annotations

import dataclasses

import pytest
from transformers import Gemma2Config, GptOssConfig, LlamaConfig, MambaConfig

from ft.model import AttentionTraits, Hardware, choose_attention, read_attention_traits

HOPPER = Hardware("cuda", "H100", (9, 0), supports_bf16=True, has_varlen=True)
WITH_FLASH = dataclasses.replace(HOPPER, has_flash_attn=True)
TURING = Hardware("cuda", "T4", (7, 5), has_varlen=True, has_flash_attn=True)
CPU = Hardware("cpu")
LLAMA = AttentionTraits()


@pytest.mark.parametrize(
    ("requested", "hardware", "compute", "expected"),
    [
        ("auto", WITH_FLASH, "bf16", "flash_attention_2"),
        ("auto", HOPPER, "bf16", "ft_varlen"),
        ("auto", HOPPER, "fp16", "ft_varlen"),
        ("auto", HOPPER, "fp32", "sdpa"),
        ("auto", TURING, "fp16", "sdpa"),
        ("auto", CPU, "fp32", "sdpa"),
        ("flash_attention_2", HOPPER, "bf16", "ft_varlen"),
        ("flash_attention_2", CPU, "fp32", "sdpa"),
        ("xformers", WITH_FLASH, "bf16", "flash_attention_2"),
        ("xformers", HOPPER, "bf16", "ft_varlen"),
        ("varlen", WITH_FLASH, "bf16", "ft_varlen"),
        ("varlen", CPU, "fp32", "ft_varlen"),
        ("varlen", TURING, "fp16", "sdpa"),
        ("sdpa", WITH_FLASH, "bf16", "sdpa"),
        ("eager", WITH_FLASH, "bf16", "eager"),
    ],
)
def test_choice(requested, hardware, compute, expected):
    attention = choose_attention(requested, hardware, LLAMA, compute=compute)
    assert attention.implementation == expected
    assert attention.is_varlen == (expected in ("flash_attention_2", "ft_varlen"))


def test_what_was_asked_for_and_is_missing_is_said():
    attention = choose_attention("flash_attention_2", HOPPER, LLAMA, compute="bf16")
    assert attention.reason == (
        "flash_attention_2 asked for; flash-attn is not installed; using torch's varlen attention"
    )


@pytest.mark.parametrize(
    ("requested", "hardware", "reason"),
    [
        ("auto", CPU, "no CUDA card of capability 8.0 or more"),
        ("auto", WITH_FLASH, "the fastest there is"),
        ("auto", HOPPER, "flash-attn is not installed; using torch's varlen attention"),
        ("flash_attention_2", WITH_FLASH, "as asked for"),
        (
            "flash_attention_2",
            CPU,
            "flash_attention_2 asked for; no CUDA card of capability 8.0 or more",
        ),
        ("varlen", HOPPER, "as asked for"),
        ("sdpa", CPU, "as asked for"),
    ],
)
def test_the_reason_does_not_say_the_choice_again(requested, hardware, reason):
    chosen = choose_attention(requested, hardware, LLAMA, compute="bf16")
    assert chosen.reason == reason


@pytest.mark.parametrize(
    "trait",
    [
        {"has_softcap": True},
        {"has_dropout": True},
        {"head_dim": 512},
        {"supports_attention_backend": False},
        {"supports_flat_batches": False},
    ],
)
def test_models_that_varlen_would_compute_wrongly_get_sdpa(trait):
    traits = dataclasses.replace(LLAMA, **trait)
    assert choose_attention("auto", HOPPER, traits, compute="bf16").implementation == "sdpa"


def test_a_model_without_sdpa_gets_eager():
    traits = dataclasses.replace(LLAMA, supports_sdpa=False)
    for requested in ("auto", "sdpa", "varlen"):
        chosen = choose_attention(requested, HOPPER, traits, compute="bf16")
        assert chosen.implementation == "eager"
        assert "the model has no sdpa attention" in chosen.reason


def test_traits_are_read_from_class_and_config():
    assert read_attention_traits(LlamaConfig(hidden_size=256, num_attention_heads=4)) == LLAMA
    assert read_attention_traits(Gemma2Config()).has_softcap
    assert not read_attention_traits(GptOssConfig()).supports_sdpa
    assert not read_attention_traits(MambaConfig()).supports_flat_batches
    assert read_attention_traits(LlamaConfig(attention_dropout=0.1)).has_dropout

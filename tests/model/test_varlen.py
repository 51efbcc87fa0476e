from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from ft.model.varlen import per_record_attention, register_varlen, varlen_attention

LENGTHS = (5, 9, 3)
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "mistral with a window of 4": MistralConfig(**SMALL, sliding_window=4),
    "qwen3": Qwen3Config(**SMALL),
    "gemma3, one layer with a window of 4": Gemma3TextConfig(
        **SMALL, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
}


def flat_batch(records, device="cpu"):
    lengths = [len(record) for record in records]
    cu = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=device)
    return {
        "input_ids": torch.cat(records)[None].to(device),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None].to(device),
        "cu_seq_lens_q": cu,
        "cu_seq_lens_k": cu,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def build(config, attention, device="cpu", dtype=torch.float32):
    register_varlen()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention)
    return model.to(device, dtype).eval()


@pytest.fixture
def records():
    torch.manual_seed(1)
    return [torch.randint(0, 64, (length,)) for length in LENGTHS]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_flat_batch_gives_each_record_the_logits_it_has_alone(name, records):
    flat = build(CONFIGS[name], "ft_varlen")(**flat_batch(records), use_cache=False).logits[0]
    alone_model = build(CONFIGS[name], "sdpa")
    alone = torch.cat([alone_model(r[None], use_cache=False).logits[0] for r in records])
    torch.testing.assert_close(flat, alone, atol=1e-5, rtol=1e-5)


def test_gradients_do_not_cross_records(records):
    model = build(CONFIGS["llama"], "ft_varlen")
    batch = flat_batch(records)
    embeddings = model.get_input_embeddings()(batch.pop("input_ids")).detach().requires_grad_()
    logits_TV = model(inputs_embeds=embeddings, **batch).logits[0]
    logits_TV[LENGTHS[0] : LENGTHS[0] + LENGTHS[1]].sum().backward()
    touched = embeddings.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [False] * 5 + [True] * 9 + [False] * 3


def test_boundaries_are_read_from_position_ids_when_not_given(records):
    model = build(CONFIGS["llama"], "ft_varlen")
    batch = flat_batch(records)
    ids, positions = batch["input_ids"], batch["position_ids"]
    given = model(**batch).logits
    found = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert torch.equal(given, found)
    ignored = model(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(given, ignored, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_of_one_row_equals_sdpa(name, records):
    row = records[1][None]
    asked = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    answers = [
        build(CONFIGS[name], attention).generate(row, attention_mask=torch.ones_like(row), **asked)
        for attention in ("ft_varlen", "sdpa")
    ]
    assert torch.equal(*answers)


def test_what_it_would_compute_wrongly_is_refused(records):
    model = build(CONFIGS["llama"], "ft_varlen")
    two_rows = torch.stack([records[0], records[0]])
    with pytest.raises(ValueError, match="one flat row, got 2"):
        model(two_rows, attention_mask=torch.ones_like(two_rows))
    q = torch.randn(1, 2, 4, 8)
    for options in ({"dropout": 0.1}, {"softcap": 30.0}, {"s_aux": torch.ones(2)}):
        with pytest.raises(ValueError, match="ft_varlen"):
            varlen_attention(model, q, q, q, None, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_equals_the_eager_definition(dtype, window):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, 17, 64, device="cuda", dtype=dtype) for h in (4, 2, 2))
    cu = torch.tensor([0, 5, 14, 17], dtype=torch.int32, device="cuda")
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    module = torch.nn.Module()
    options = {"cu_seq_lens_q": cu, "cu_seq_lens_k": cu, "sliding_window": window}
    kernel, _ = varlen_attention(module, *leaves, None, None, **options)
    kernel.float().square().sum().backward()
    exact_leaves = [x.float().clone().requires_grad_() for x in (q, k, v)]
    bounds = (-1 if window is None else window - 1, 0)
    exact = per_record_attention(*exact_leaves, (cu, cu), bounds, None)
    exact.square().sum().backward()
    torch.testing.assert_close(kernel.float(), exact, atol=2e-2, rtol=2e-2)
    for ours, reference in zip(leaves, exact_leaves, strict=True):
        torch.testing.assert_close(ours.grad.float(), reference.grad, atol=5e-2, rtol=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CONFIGS)
def test_on_the_card_a_flat_batch_equals_records_alone(name, records):
    model = build(CONFIGS[name], "ft_varlen", "cuda", torch.bfloat16)
    flat = model(**flat_batch(records, "cuda"), use_cache=False).logits[0].float()
    reference = build(CONFIGS[name], "sdpa", "cuda")
    alone = [reference(r[None].cuda(), use_cache=False).logits[0] for r in records]
    torch.testing.assert_close(flat, torch.cat(alone), atol=3e-2, rtol=3e-2)

"""How long an optimizer step takes on a card: what must be computed, moved and launched.

    products      2 flops a weight and token forward, 2 for the input's gradient, 2 more for the
                  gradient of a trained weight; forward once more where a layer is recomputed
    attention     4 flops a pair of tokens and channel forward (half of the pairs are seen), 2.5
                  times that backward (FlashAttention-2, https://arxiv.org/abs/2307.08691)
    memory        what a layer keeps is written once and read twice; adapters read and write each
                  layer's input and output beside it; a packed weight is dequantized in each pass
    launches      the host needs a while a layer, whatever its size

The shares of the data sheet that are reached were measured on an H100 with Llama-2-7B's shape
(torch 2.11): products of 4,096 tokens and 8192^3 at 0.69 of the dense bf16 rate, attention at 0.35,
dequantization of NF4 at 0.31 of the memory's rate. Other cards are assumed to reach the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ft.plan.cards import Card
from ft.plan.memory import Choice
from ft.plan.shape import LayerShape, ModelShape

PRODUCT_SHARE = 0.69
ATTENTION_SHARE = 0.35
MEMORY_SHARE = 0.80
DEQUANTIZE_SHARE = 0.31
OVERHEAD = 1.08
"""Of everything: what the parts leave out."""
LAUNCH_S = {True: 0.0042, False: 0.010}
"""A layer's forward and backward pass at least, compiled or not: the host's time."""
PASS_S = 0.015
"""Of a pass, beside its layers' work: embedding, norm, chunks of the head; measured on an H100."""
UPDATE_BYTES = 90
"""Moved for a trained number in a step: its gradient added up, clipped, the update; from the times
of an 8B model with 8-bit states and a 1B model in fp32 on an H100."""
_ADAPTER_PASSES = 3
_KEPT_PASSES = 3


@dataclass(frozen=True)
class StepWork:
    """What a mean optimizer step of one device computes."""

    num_tokens: float
    num_trained_tokens: float
    mean_length: float
    """Tokens of the record that a mean token is in: what attention looks over."""


def step_time_s(
    model: ModelShape, choice: Choice, work: StepWork, card: Card, *, is_compiled: bool
) -> float:
    """Seconds of one optimizer step on one card.

    Args:
        model: What it is made of.
        choice: What is recomputed and kept, and how large a pass is.
        work: Tokens of a step.
        card: Its rates.
        is_compiled: Whether layers run compiled.
    """
    num_passes = math.ceil(work.num_tokens / choice.pass_tokens)
    tokens = work.num_tokens / num_passes
    total = 0.0
    for number, layer in enumerate(model.layers):
        forward, backward = _layer_s(model, layer, tokens, work.mean_length, card)
        if layer.weights.copy_bytes and number >= choice.num_kept:
            dequantize = _dequantize_s(layer, card)
            forward, backward = forward + dequantize, backward + dequantize
        times = 2 if number < choice.num_recomputed else 1
        floor = LAUNCH_S[is_compiled] * (2 + times) / 3
        total += max((times * forward + backward) * OVERHEAD, floor)
    head = _head_s(model, work.num_trained_tokens / num_passes, card)
    update = UPDATE_BYTES * model.weights.num_trained / (card.bytes_per_s * MEMORY_SHARE)
    return num_passes * (total + head * OVERHEAD + PASS_S) + update


def _layer_s(
    model: ModelShape, layer: LayerShape, tokens: float, length: float, card: Card
) -> tuple[float, float]:
    """Forward and backward, seconds."""
    weights, trace = layer.weights, layer.trace
    rate = card.flops_per_s * PRODUCT_SHARE
    forward = 2 * weights.num_products * tokens / rate
    backward = forward + 2 * weights.num_trained_products * tokens / rate
    attention = 2 * model.attention_size * length * tokens / (card.flops_per_s * ATTENTION_SHARE)
    moved = tokens / (card.bytes_per_s * MEMORY_SHARE)
    kept = trace.kept_bytes_per_token * moved
    adapters = weights.num_adapter_columns * model.head_bytes * moved
    return (
        forward + attention + kept + adapters,
        backward + 2.5 * attention + (_KEPT_PASSES - 1) * kept + (_ADAPTER_PASSES - 1) * adapters,
    )


def _dequantize_s(layer: LayerShape, card: Card) -> float:
    moved = layer.weights.held_bytes + layer.weights.copy_bytes
    return moved / (card.bytes_per_s * DEQUANTIZE_SHARE)


def _head_s(model: ModelShape, trained_tokens: float, card: Card) -> float:
    products = 3 if model.trains_head else 2
    flops = products * 2 * model.hidden_size * model.vocab_size * trained_tokens
    return flops / (card.flops_per_s * PRODUCT_SHARE)

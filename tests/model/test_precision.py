from __future__ import annotations

import pytest

from ft.model import Hardware, choose_precision
from ft.spec.runspec import PrecisionSpec

HOPPER = Hardware("cuda", "H100", (9, 0), 80 << 30, supports_bf16=True, has_varlen=True)
TURING = Hardware("cuda", "T4", (7, 5), 16 << 30, supports_bf16=False)
MPS = Hardware("mps", "arm64")
CPU = Hardware("cpu", "x86", supports_bf16=True)


def choose(hardware, *, trains_all=False, **keys):
    return choose_precision(PrecisionSpec(**keys), hardware, trains_all=trains_all)


@pytest.mark.parametrize(
    ("keys", "hopper", "turing", "cpu", "mps"),
    [
        ({}, "bf16", "fp16", "fp32", "fp32"),
        ({"bf16": "auto"}, "bf16", "fp16", "fp32", "fp32"),
        ({"bf16": "auto", "fp16": False}, "bf16", "fp32", "fp32", "fp32"),
        ({"bf16": True}, "bf16", "fp16!", "bf16", "fp32!"),
        ({"bf16": "full"}, "bf16", "fp16!", "bf16", "fp32!"),
        ({"fp16": True}, "fp16", "fp16", "fp32!", "fp32!"),
        ({"bf16": False, "fp16": True}, "fp16", "fp16", "fp32!", "fp32!"),
        ({"bf16": False}, "fp32", "fp32", "fp32", "fp32"),
        ({"bf16": False, "fp16": False}, "fp32", "fp32", "fp32", "fp32"),
    ],
)
def test_compute_format(keys, hopper, turing, cpu, mps):
    for hardware, expected in ((HOPPER, hopper), (TURING, turing), (CPU, cpu), (MPS, mps)):
        precision = choose(hardware, **keys)
        assert precision.compute == expected.rstrip("!"), hardware.name
        assert bool(precision.notes) == expected.endswith("!"), hardware.name


def test_frozen_weights_are_held_as_computed_and_trained_ones_in_fp32():
    lora = choose(HOPPER, bf16=True)
    full = choose(HOPPER, bf16=True, trains_all=True)
    assert (lora.autocast, lora.weights, full.weights) == ("bf16", "bf16", "fp32")
    assert str(lora.trainable_dtype) == "torch.float32"


def test_bf16_full_trains_bf16_weights_without_autocast():
    full = choose(CPU, bf16="full", trains_all=True)
    assert (full.autocast, full.weights) == ("no", "bf16")
    assert str(full.trainable_dtype) == "torch.bfloat16"


def test_only_fp16_needs_a_loss_scaler():
    assert choose(TURING).autocast == "fp16"
    assert choose(HOPPER).autocast != "fp16"
    assert choose(CPU, fp16=True).autocast != "fp16"


def test_tf32_where_the_card_has_it():
    assert choose(HOPPER, tf32=True).tf32
    assert choose(HOPPER, tf32="auto").tf32
    assert not choose(HOPPER).tf32
    assert not choose(TURING, tf32="auto").tf32
    assert choose(TURING, tf32=True).notes == ("tf32: no effect on T4",)

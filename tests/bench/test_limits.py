from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from ft.bench.limits import measure_device
from ft.bench.workload import PassShape, read_workload
from tiny import save_tiny_llama

SHAPE = PassShape(num_tokens=64, num_trained_tokens=16, num_records=2)


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    config = AutoConfig.from_pretrained(save_tiny_llama(tmp_path_factory.mktemp("base")))
    return read_workload(config, {})


def test_every_rate_is_measured_on_the_device(workload):
    device = torch.device("cpu")
    rates, seconds = measure_device(workload, SHAPE, torch.float32, device, in_4bit=True)
    assert rates.product_side == 512
    for rate in (rates.product_flops, rates.copy_bytes_per_s, rates.attention_flops):
        assert 1e6 < rate < 1e14
    assert rates.dequantization_bytes_per_s > 0
    assert seconds.forward_s > 0
    assert seconds.attention_backward_s > 0
    assert len(seconds.ceilings(SHAPE.num_tokens)) == 3


def test_without_4_bit_weights_nothing_is_dequantized(workload):
    device = torch.device("cpu")
    rates, seconds = measure_device(workload, SHAPE, torch.float32, device, in_4bit=False)
    assert rates.dequantization_bytes_per_s is None
    assert len(seconds.ceilings(SHAPE.num_tokens)) == 2


@pytest.mark.gpu
def test_on_a_card(workload):
    device = torch.device("cuda")
    rates, _ = measure_device(workload, SHAPE, torch.bfloat16, device, in_4bit=True)
    assert rates.product_side == 8192
    assert rates.product_flops > 1e13

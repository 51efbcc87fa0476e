"""fp16's loss scaler: a step that overflows is skipped and counted; twenty in a row stop the run.

On a CPU ft computes in fp32, so the loop is given torch's own scaler for CPUs, with a scale at which
fp32 overflows; on a card the run is one in fp16.
"""

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer

from ft.runtime import TrainingError
from ft.spec import load_spec
from ft.train.assembly import build_run
from ft.train.claim import claim_run
from ft.train.health import MAX_SKIPPED_IN_A_ROW
from ft.train.signals import StopRequest
from ft.train.teller import Teller
from runs import curve, events, run, write_config


def train_with_scaler(config, **scaler_keys):
    """A run whose loop has a real scaler, with a scale that is too large at first."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, **scaler_keys)
    with claim_run(load_spec(config), overwrite=False) as claimed:
        teller = Teller(lambda event: None)
        loop = build_run(claimed, teller).loop
        accelerator = loop.accelerator
        accelerator.scaler = scaler
        loop.optimizer = AcceleratedOptimizer(
            loop.optimizer.optimizer, device_placement=False, scaler=scaler
        )
        loop.writer.optimizer = loop.optimizer
        accelerator._optimizers = [loop.optimizer]
        # What makes accelerate unscale before it clips.
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        try:
            state = loop.run(StopRequest())
        finally:
            accelerator.state._mixed_precision = "no"
            teller.close()
    return state


def test_steps_that_overflow_are_skipped_and_counted(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, num_epochs=4, lr_scheduler="constant")
    state = train_with_scaler(config, backoff_factor=2.0**-16)
    steps = events(tmp_path / "out", "step")
    skipped = [each["step"] for each in steps if each["was_skipped"]]
    assert 1 <= len(skipped) < 10
    assert skipped == list(range(1, len(skipped) + 1)), "until the scale fits"
    assert state.num_skipped_steps == len(skipped)
    assert state.num_skipped_in_a_row == 0
    losses = [each["loss"] for each in steps]
    assert all(loss == loss for loss in losses), "the loss itself is a number all along"
    assert losses[-1] < losses[0]


def test_twenty_in_a_row_stop_and_leave_the_weights_as_they_were(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, num_epochs=20, save_strategy="no")
    with pytest.raises(TrainingError, match="20 steps in a row overflowed in fp16") as caught:
        train_with_scaler(config, backoff_factor=0.999)
    assert caught.value.exit_code == 4
    assert len(curve(tmp_path / "out")) == MAX_SKIPPED_IN_A_ROW
    assert all(each["was_skipped"] for each in events(tmp_path / "out", "step"))
    assert "overflowed" in events(tmp_path / "out", "failed")[0]["what"]
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.gpu
def test_on_a_card_the_first_scales_may_be_skipped_and_the_run_learns(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, num_epochs=6, fp16=True, save_steps=4)
    result = run(config)
    steps = events(tmp_path / "out", "step")
    assert result["num_skipped_steps"] == sum(each["was_skipped"] for each in steps) < 20
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(each["loss"] == each["loss"] for each in steps)

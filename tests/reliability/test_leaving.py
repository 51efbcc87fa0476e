"""Signals and the end of the time: a word, the right exit code, and nothing lost."""

import os
import signal
import time

import pytest
from programme.bench import Bench
from programme.signals import MOMENTS, signal_at

from ft.runtime import Interrupted
from ft.train.signals import leaving_on_signals
from runs import curve, events, run, start_ft, wait_for, write_config

ENDLESS = {"num_epochs": 100_000}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_the_first_step_a_signal_ends_it_with_a_word(tmp_path, tiny_llama, number, code):
    config = write_config(tmp_path, tiny_llama)
    process = start_ft("train", config)
    wait_for((tmp_path / "out" / ".lock").exists, process)
    time.sleep(0.5)  # libraries, data or model are being loaded
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert f"stopped by {signal.Signals(number).name}" in error
    assert "Traceback" not in error
    assert curve(tmp_path / "out") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_merge_that_is_left_leaves_nothing_half_written(tmp_path, tiny_llama, number, code):
    out = tmp_path / "out"
    run(write_config(tmp_path, tiny_llama, max_steps=1))
    before = set(out.iterdir())
    process = start_ft("merge", out)
    wait_for(lambda: any(out.glob(".tmp-merged-*")), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert error == ("stopped by SIGTERM\n" if code == 143 else "interrupted\n")
    assert set(out.iterdir()) == before


def test_the_second_signal_ends_it_at_once(tmp_path, tiny_llama):
    """In the middle of a step that takes longer than it may take to leave."""
    config = write_config(
        tmp_path,
        tiny_llama,
        num_records=500,
        micro_batch_size=1,
        gradient_accumulation_steps=400,
        save_steps=1,
        **ENDLESS,
    )
    process = start_ft("train", config)
    first = tmp_path / "out" / "checkpoints" / "step-000001"
    wait_for(first.is_dir, process)
    (step,) = events(tmp_path / "out", "step")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)  # two at the same moment count as one
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=min(2, step["step_time_s"] / 2))
    assert process.returncode in (143, -signal.SIGTERM)  # the shell says 143 for both
    assert list(first.parent.glob("step-*")) == [first]


def test_the_end_of_max_time_is_like_sigterm(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_time="2s", **ENDLESS)
    started = time.monotonic()
    with pytest.raises(Interrupted, match="stopped by its max_time") as caught:
        run(config)
    assert 2 <= time.monotonic() - started < 30
    assert caught.value.exit_code == 143
    (interrupted,) = events(tmp_path / "out", "interrupted")
    last = interrupted["step"]
    assert (tmp_path / "out" / "checkpoints" / f"step-{last:06d}").is_dir()
    with pytest.raises(Interrupted):
        run(config, "--max-time", "1s")
    assert events(tmp_path / "out", "resumed")[0]["step"] == last
    assert len(curve(tmp_path / "out")) > last, "every command comes at least one step further"


def test_a_signal_in_the_middle_of_an_evaluation(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, val_set_size=4, eval_steps=2, max_steps=6)

    def on_event(event):
        if event["event"] == "evaluation" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after step 2") as caught:
        run(config, on_event=on_event)
    assert caught.value.exit_code == 130
    run(config)
    assert [step for step, *_ in curve(tmp_path / "out")] == list(range(1, 7))
    assert [e["step"] for e in events(tmp_path / "out", "evaluation")] == [0, 2, 4, 6]


def _import_with(clause):
    """What libraries do as they look for others: the signal comes in the middle of an import."""

    def on_event(event):
        if event["event"] == "model":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            except clause:
                pass

    return on_event


def test_a_signal_is_not_taken_for_a_library_that_is_not_there(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama)
    with pytest.raises(Interrupted, match="outside of the training steps") as caught:  # noqa: SIM117
        with leaving_on_signals():
            run(config, on_event=_import_with(Exception))
    assert caught.value.exit_code == 143
    assert curve(tmp_path / "out") == []


def test_a_signal_that_was_dropped_before_the_steps_ends_the_run_after_the_first(
    tmp_path, tiny_llama
):
    config = write_config(tmp_path, tiny_llama)
    with pytest.raises(Interrupted, match="after step 1, which is saved") as caught:  # noqa: SIM117
        with leaving_on_signals():
            run(config, on_event=_import_with(BaseException))
    assert caught.value.exit_code == 143
    run(config)
    assert [step for step, *_ in curve(tmp_path / "out")] == [1, 2, 3, 4, 5]


def test_what_a_library_makes_of_a_signal_is_told_as_the_signal():
    with pytest.raises(Interrupted, match="stopped by SIGINT") as caught:  # noqa: SIM117
        with leaving_on_signals():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
            except BaseException:  # noqa: BLE001 - as a library in C may
                raise ImportError("half a module is there") from None
    assert caught.value.exit_code == 130
    with leaving_on_signals():
        pass  # and what came in an earlier block counts no longer


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_a_random_time_of_a_moment(tmp_path, tiny_llama, moment):
    outcome = signal_at(Bench(tmp_path, tiny_llama), moment, 0)
    assert not outcome.faults


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 10))
@pytest.mark.parametrize("moment", MOMENTS)
def test_signals_at_random_times(tmp_path, tiny_llama, moment, seed):
    assert not signal_at(Bench(tmp_path, tiny_llama), moment, seed).faults

"""Training on a stream: like training on records that are all there, stopped or not, shared or not."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ft.runtime import Interrupted, UserError
from ft.spec import OutputSpec
from ft.train.cadence import checkpoint_cadence
from runs import curve, events, run, stop_after, write_config, write_records

STREAM = {"streaming": True, "max_steps": 7}
STORED = {
    "shuffle_merged_datasets": False,
    "max_steps": 7,
}  # an epoch's order is drawn all the same


def make(folder, base, **keys):
    folder.mkdir()
    return write_config(folder, base, **keys)


def weights_of(out):
    return load_file(next(out.glob("*model.safetensors")))


class TestLikeStoredRecords:
    @pytest.mark.parametrize(
        "keys",
        [{}, {"group_by_length": True}, {"sample_packing": True, "micro_batch_size": 1}],
        ids=["records", "grouped by length", "packs"],
    )
    def test_what_fits_into_a_window_trains_as_if_it_were_no_stream(
        self, tmp_path, tiny_llama, keys
    ):
        """Bit for bit over epochs, though 10 records make no whole number of steps of 4."""
        keys = {**keys, "lora_dropout": 0.1, "num_records": 10}
        run(make(tmp_path / "stream", tiny_llama, **STREAM, **keys))
        run(make(tmp_path / "stored", tiny_llama, **STORED, **keys))
        assert curve(tmp_path / "stream" / "out") == curve(tmp_path / "stored" / "out")

    def test_unshuffled_records_come_as_they_stand_in_the_file(self, tmp_path, tiny_llama):
        """A learning rate so high that the loss is no number: then the step names its records."""
        config = make(
            tmp_path / "run",
            tiny_llama,
            **STREAM,
            shuffle_merged_datasets=False,
            learning_rate=1e30,
            optimizer="sgd",
            max_grad_norm=0,
        )
        with pytest.raises(Exception, match="is nan"):
            run(config)
        (failed,) = events(tmp_path / "run" / "out", "failed")
        first = (failed["step"] - 1) * 4
        lines = [int(origin.rsplit(":", 1)[1]) for origin in failed["records"]]
        assert lines == list(range(first + 1, first + 5))

    def test_held_out_records_are_read_whole(self, tmp_path, tiny_llama):
        heldout = write_records(tmp_path / "heldout.jsonl", 5)
        config = make(
            tmp_path / "run",
            tiny_llama,
            **STREAM,
            test_datasets=[{"path": str(heldout), "type": "context_qa.load_v2"}],
            eval_steps=3,
        )
        run(config)
        measured = events(tmp_path / "run" / "out", "evaluation")
        assert [each["step"] for each in measured] == [0, 3, 6, 7]
        assert {each["num_records"] for each in measured} == {5}


class TestResume:
    @pytest.mark.parametrize("packs", [False, True], ids=["records", "packs"])
    def test_a_stopped_run_goes_on_bit_for_bit(self, tmp_path, tiny_llama, packs):
        """Within a window, at its edge, in the next pass: windows of 7 records, steps of 4 rows."""
        keys = {
            "streaming": True,
            "max_steps": 13,
            "streaming_multipack_buffer_size": 7,
            "sample_packing": packs,
            "lora_dropout": 0.1,
        }
        straight = make(tmp_path / "straight", tiny_llama, **keys)
        stopped = make(tmp_path / "stopped", tiny_llama, **keys)
        run(straight)
        for step in (2, 5, 6, 9):
            with pytest.raises(Interrupted):
                run(stopped, on_event=stop_after(step))
        run(stopped)
        assert curve(tmp_path / "stopped" / "out") == curve(tmp_path / "straight" / "out")
        one, two = (weights_of(tmp_path / name / "out") for name in ("stopped", "straight"))
        assert all(torch.equal(one[name], two[name]) for name in two)

    def test_changed_files_are_noticed(self, tmp_path, tiny_llama):
        config = make(tmp_path / "run", tiny_llama, **STREAM)
        with pytest.raises(Interrupted):
            run(config, on_event=stop_after(2))
        with (tmp_path / "run" / "data.jsonl").open("a") as file:
            file.write("\n")
        with pytest.raises(UserError, match="began otherwise: data"):
            run(config)


class TestPasses:
    def test_the_end_begins_the_next_pass_and_is_told(self, tmp_path, tiny_llama):
        run(make(tmp_path / "run", tiny_llama, **STREAM, num_records=10))
        told = [event["summary"] for event in events(tmp_path / "run" / "out", "stream")]
        assert [lines[0] for lines in told] == [
            "the stream has ended: all 10 records were read once; it begins again",
            "the stream has ended: all 10 records were read 2 times; it begins again",
        ]
        assert ": 20 records read, 20 kept" in told[1][1]
        epochs = [event["epoch"] for event in events(tmp_path / "run" / "out", "step")]
        assert epochs == [0, 0, 0, 1, 1, 1, 2], "10 records are steps of 4, 4 and 2"

    def test_a_run_is_saved_ten_times_unless_told_otherwise(self):
        cadence = checkpoint_cadence(OutputSpec(), num_steps=20, steps_per_epoch=None)
        due = [step for step in range(1, 21) if cadence.is_due(step, None)]
        assert due == list(range(2, 21, 2))


class TestBadRecords:
    def test_are_found_before_the_model_is_loaded(self, tmp_path, tiny_llama):
        config = make(tmp_path / "run", tiny_llama, **STREAM)
        data = tmp_path / "run" / "data.jsonl"
        data.write_text('{"question": "no answer"}\n' + data.read_text())
        seen = []
        with pytest.raises(UserError, match=r"1 of 19 records \(5.3%\) can't be used"):
            run(config, on_event=lambda event: seen.append(event["event"]))
        assert "model" not in seen
        assert not (tmp_path / "run" / "out" / "run.json").exists()

    def test_farther_on_they_end_the_run_which_can_go_on(self, tmp_path, tiny_llama):
        """They lie behind the first 1,000 records, which are all that is looked at beforehand."""
        data = tmp_path / "data.jsonl"
        good = '{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}\n'
        data.write_text(good * 1100 + "no JSON\n" * 100)
        config = make(
            tmp_path / "run",
            tiny_llama,
            streaming=True,
            datasets=[{"path": str(data)}],
            max_steps=4,
            save_steps=1,
            micro_batch_size=200,
            streaming_multipack_buffer_size=1000,
        )
        with pytest.raises(UserError, match=r"100 of 1,200 records \(8.3%\) can't be used"):
            run(config)
        assert [row[0] for row in curve(tmp_path / "run" / "out")] == [1, 2]
        run(config, "--max-drop", "0.1")
        assert [row[0] for row in curve(tmp_path / "run" / "out")] == [1, 2, 3, 4]


def test_two_processes_train_like_one(tmp_path, tiny_llama):
    """Windows of 7 and steps of 4, so that steps reach over windows, and the last ones are short."""
    keys = {"streaming": True, "max_steps": 9, "streaming_multipack_buffer_size": 7}
    one = make(tmp_path / "one", tiny_llama, **keys)
    (tmp_path / "two").mkdir()
    shutil.copy2(tmp_path / "one" / "data.jsonl", tmp_path / "two")
    config = yaml.safe_load(one.read_text())
    config |= {"gradient_accumulation_steps": 1, "output_dir": str(tmp_path / "two" / "out")}
    (tmp_path / "two" / "run.yml").write_text(yaml.safe_dump(config))
    run(one)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", "ft", "train", str(tmp_path / "two" / "run.yml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "a stream, 9 steps of 4 rows, read in windows of 7 records" in done.stdout
    assert done.stdout.count("the stream has ended: all 18 records were read once") == 1
    one, two = (torch.tensor(curve(tmp_path / name / "out")) for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)

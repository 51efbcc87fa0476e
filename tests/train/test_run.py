"""`ft train`: what a run leaves behind, and what it refuses."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft.runtime import Interrupted, RunDirectory, TrainingError, UserError
from ft.spec import load_spec
from runs import curve, events, run, stop_after, write_config


def steps_of(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def test_leaves_a_run_that_names_itself(tmp_path, tiny_llama):
    result = run(write_config(tmp_path, tiny_llama, num_epochs=2, val_set_size=0.2))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "resolved.yml", "run.json",
        "prompt.json", "events.jsonl", "checkpoints",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(".tmp")]
    identity = RunDirectory(out).read_run()
    assert identity["finished"] is True
    assert identity["data"]["num_train_records"] == 14
    assert identity["data"]["num_heldout_records"] == 4
    assert identity["environment"]["libraries"]["torch"].startswith(torch.__version__.split("+")[0])
    assert result["num_steps"] == 8
    assert load_spec(out / "resolved.yml").spec.adapter.lora_r == 4
    losses = [event["eval_loss"] for event in events(out, "evaluation")]
    assert losses[-1] < losses[0] - 0.3


def test_no_pickle_anywhere(tmp_path, tiny_llama):
    run(write_config(tmp_path, tiny_llama, max_steps=2))
    endings = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert endings <= {".json", ".jsonl", ".safetensors", ".yml", ".jinja", ""}


def test_finished_runs_say_so_and_overwrite_trains_anew(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_steps=2)
    first = run(config)
    before = curve(tmp_path / "out")
    assert run(config) == first
    assert len(events(tmp_path / "out", "start")) == 1, "the second time there was nothing to do"
    adapter = tmp_path / "out" / "adapter_model.safetensors"
    written = adapter.stat().st_mtime_ns
    run(config, overwrite=True)
    assert adapter.stat().st_mtime_ns > written
    assert curve(tmp_path / "out") == before


def test_a_changed_config_is_refused_key_by_key(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_steps=2)
    run(config)
    with pytest.raises(UserError) as caught:
        run(config, "--lora-r", "8", "--seed", "1", "--logging-steps", "5")
    (problem,) = caught.value.problems
    assert problem.what.endswith("began otherwise: lora_r, seed")
    table = [line.split() for line in problem.fix.splitlines()]
    assert table[0] == ["then", "now"]
    assert table[1][:4] == ["lora_r", "4", "8", "fixed:"]
    assert table[2] == ["seed", "7", "1", "--override", "seed"]
    assert "--overwrite" in problem.fix


def test_changed_data_is_refused(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_steps=4, save_steps=1)

    class StopError(Exception):
        pass

    def stop(event):
        if event["event"] == "step" and event["step"] == 2:
            raise StopError

    with pytest.raises(StopError):
        run(config, on_event=stop)
    data = tmp_path / "data.jsonl"
    data.write_text(data.read_text().replace("COUNT", "MAX"))
    with pytest.raises(UserError, match="began otherwise: data") as caught:
        run(config)
    assert "--override data" in caught.value.problems[0].fix
    run(config, overrides=["data"])
    assert events(tmp_path / "out", "resumed")[0]["step"] == 1
    assert len(curve(tmp_path / "out")) == 4


def test_what_shapes_the_result_may_change_if_it_is_named(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_steps=4)
    with pytest.raises(Interrupted):
        run(config, on_event=stop_after(2))
    changed = ("--learning-rate", "1e-3", "--lora-r", "8")
    with pytest.raises(UserError, match="began otherwise: lora_r, learning_rate"):
        run(config, *changed, overrides=["seed"])
    with pytest.raises(UserError, match=r"began otherwise: lora_r\n"):
        run(config, *changed, overrides=["learning_rate", "lora_r"])
    with pytest.raises(UserError, match="did you mean learning_rate"):
        run(config, overrides=["learning_rat"])
    run(config, "--learning-rate", "1e-3", overrides=["learning_rate"])
    assert len(curve(tmp_path / "out")) == 4
    assert load_spec(tmp_path / "out" / "resolved.yml").spec.training.learning_rate == 1e-3


def test_a_failing_start_leaves_a_finished_run_alone(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_steps=2)
    run(config)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="max_drop"):
        run(config, "--sequence-len", "8", overwrite=True)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert after.keys() == before.keys()
    assert after["run.json"] == before["run.json"]
    run(config, overwrite=True)


def test_overwriting_leaves_nothing_of_the_former_run(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, max_steps=2)
    run(config)
    run(config, "--adapter", "none", overwrite=True)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names
    assert not any(name.startswith("adapter") for name in names)


def test_a_folder_that_is_not_ours_is_refused(tmp_path, tiny_llama):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="not from ft"):
        run(write_config(tmp_path, tiny_llama), overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_checkpoints_are_limited_and_the_best_is_kept(tmp_path, tiny_llama):
    run(
        write_config(
            tmp_path, tiny_llama, max_steps=8, val_set_size=4, save_steps=1, save_total_limit=2,
            eval_steps=1, load_best_model_at_end=True, learning_rate=0.1, lr_scheduler="constant",
        )
    )  # fmt: skip
    out = tmp_path / "out"
    evaluations = {event["step"]: event["eval_loss"] for event in events(out, "evaluation")[1:]}
    best = min(evaluations, key=evaluations.get)
    assert best < 8, "a rate this high makes things worse towards the end"
    assert f"step-{best:06d}" in steps_of(out)
    assert len(steps_of(out)) == 3
    final = load_file(out / "adapter_model.safetensors")
    kept = load_file(out / "checkpoints" / f"step-{best:06d}" / "adapter_model.safetensors")
    assert all(torch.equal(final[name], kept[name]) for name in final)


def test_early_stopping(tmp_path, tiny_llama):
    result = run(
        write_config(
            tmp_path, tiny_llama, num_epochs=20, val_set_size=4, eval_steps=1, early_stopping_patience=2,
            learning_rate=0.5, lr_scheduler="constant",
        )
    )  # fmt: skip
    assert result["is_stopped_early"]
    assert result["num_steps"] == result["best_step"] + 2


def damage_truncate(folder):
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def damage_flip(folder):
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def damage_remove(folder):
    (folder / "trainer_state.json").unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_remove])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, tiny_llama, damage):
    config = write_config(tmp_path, tiny_llama, max_steps=4, save_steps=1)
    run(config)
    out = tmp_path / "out"
    straight = curve(out)
    identity = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(identity | {"finished": False}))
    damage(out / "checkpoints" / "step-000004")
    run(config)
    assert (out / "checkpoints" / "broken-step-000004").exists()
    assert (out / "checkpoints" / "step-000004").exists(), "trained and saved again"
    (broken,) = events(out, "broken_checkpoint")
    assert broken["path"] == "step-000004"
    assert events(out, "resumed")[-1]["step"] == 3
    assert curve(out) == straight


def test_nan_stops_before_the_optimizer_step_and_names_the_records(tmp_path, tiny_llama):
    """A base with a NaN in it: the loss of the first step is NaN."""
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_llama.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError) as caught:
        run(write_config(tmp_path, base))
    assert caught.value.exit_code == 4
    assert "data.jsonl:" in caught.value.problems[0].where
    (failed,) = events(tmp_path / "out", "failed")
    assert len(failed["records"]) == 4
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_fp16_on_the_cpu_says_that_it_is_fp32(tmp_path, tiny_llama):
    run(write_config(tmp_path, tiny_llama, max_steps=1, fp16=True))
    (model,) = events(tmp_path / "out", "model")
    assert model["precision"] == "fp32"
    assert any("fp16" in note for note in model["notes"])


def test_bf16_trains_under_autocast_with_fp32_adapters(tmp_path, tiny_llama):
    run(write_config(tmp_path, tiny_llama, max_steps=3, bf16=True))
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert len(curve(tmp_path / "out")) == 3


def test_going_on_from_an_adapter(tmp_path, tiny_llama):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    run(write_config(tmp_path / "first", tiny_llama, num_epochs=4))
    last_loss = curve(tmp_path / "first" / "out")[-1][1]
    second = write_config(
        tmp_path / "second", tiny_llama, max_steps=1, lora_model_dir=str(tmp_path / "first" / "out")
    )
    run(second)
    assert curve(tmp_path / "second" / "out")[0][1] < last_loss + 0.5
    assert curve(tmp_path / "second" / "out")[0][1] < curve(tmp_path / "first" / "out")[0][1] - 0.5


def test_a_user_strategy_beside_the_config(tmp_path, tiny_llama):
    source = Path(__file__).parent.parent / "fixtures" / "context_qa2.py"
    (tmp_path / "context_qa2.py").write_bytes(source.read_bytes())
    config = write_config(tmp_path, tiny_llama, max_steps=1)
    run(config, "--datasets.0.type", "./context_qa2.py")
    layout = json.loads((tmp_path / "out" / "prompt.json").read_text())["layouts"][0]
    assert layout["source"]["sha256"]
    assert sorted(layout["prompt_fields"]) == ["context", "question"]

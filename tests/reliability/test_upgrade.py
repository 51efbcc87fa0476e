"""A run that another version of `ft` began: resumed, or refused by the number of its format.

`tests/fixtures/run_of_format_1` is such a run, stopped after step 3 of 6: base (without weights,
which are drawn anew), data, config and directory. Whoever raises a format number stores a run of
the former one beside it, and writes down here what becomes of it:

    python tests/reliability/test_upgrade.py FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import runs
import tiny
from ft.runtime import Interrupted, UserError
from ft.train.checkpoint import FORMAT, MANIFEST, read_checkpoint

STORED = Path(__file__).parents[1] / "fixtures" / "run_of_format_1"
MADE_IN = "/tmp/run_of_format_1"


@pytest.fixture
def begun(tmp_path):
    """A copy of the stored run that lies where its files say it does."""
    folder = shutil.copytree(STORED, tmp_path / "run")
    for name in ("run.yml", "out/resolved.yml", "out/run.json"):
        file = folder / name
        file.write_text(file.read_text().replace(MADE_IN, str(folder)))
    draw_weights(folder / "base")
    return folder


def draw_weights(base: Path) -> None:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(base)).save_pretrained(base)


def test_a_run_of_the_first_format_goes_on(begun):
    before = runs.curve(begun / "out")
    assert [step for step, *_ in before] == [1, 2, 3]
    assert runs.run(begun / "run.yml")["num_steps"] == 6
    (resumed,) = runs.events(begun / "out", "resumed")
    assert resumed["step"] == 3
    after = runs.curve(begun / "out")
    assert after[:3] == before
    assert [step for step, *_ in after] == [1, 2, 3, 4, 5, 6]


def with_format(checkpoint, number, *files):
    for name in files:
        content = json.loads((checkpoint / name).read_text()) | {"format": number}
        (checkpoint / name).write_text(json.dumps(content) + "\n")


@pytest.mark.parametrize("number", [0, FORMAT + 1])
def test_a_checkpoint_of_another_format_is_refused_by_its_number(begun, number):
    """And stays as it is: the version that wrote it can go on with it."""
    checkpoint = begun / "out" / "checkpoints" / "step-000003"
    with_format(checkpoint, number, MANIFEST, "trainer_state.json")
    with pytest.raises(UserError, match=f"of format {number}, and this ft reads {FORMAT}") as error:
        runs.run(begun / "run.yml")
    assert str(checkpoint) in error.value.problems[0].where
    assert checkpoint.is_dir()


def test_a_format_that_one_file_alone_names_is_damage(begun):
    checkpoint = begun / "out" / "checkpoints" / "step-000003"
    with_format(checkpoint, 7, MANIFEST)
    with pytest.raises(ValueError, match="different formats"):
        read_checkpoint(checkpoint)


def test_a_run_of_another_format_is_refused_by_its_number(begun):
    with_format(begun / "out", 2, "run.json")
    with pytest.raises(UserError, match="of format 2, and this ft reads 1"):
        runs.run(begun / "run.yml")


def store(folder: Path) -> None:
    """Begins such a run, in MADE_IN, and copies what is to be kept of it."""
    made_in = Path(MADE_IN)
    tiny.save_tiny_llama(made_in / "base")
    keys = {"lora_r": 1, "max_steps": 6, "lora_dropout": 0.1}
    with pytest.raises(Interrupted):
        runs.run(runs.write_config(made_in, made_in / "base", **keys), on_event=runs.stop_after(3))
    (made_in / "out" / ".lock").unlink()
    (made_in / "base" / "model.safetensors").unlink()
    shutil.copytree(made_in, folder)
    shutil.rmtree(made_in)


if __name__ == "__main__":
    store(Path(sys.argv[1]))

"""`ft convert` as a user types it: the YAML on one side, the list on the other."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from ft.cli import main

TRL = """model_name_or_path: acme/base
dataset_name: acme/chats
assistant_only_loss: true
use_peft: true
hub_token: hf_abcdefghijklmnopqrstuv
push_to_hub: true
output_dir: out
"""


@dataclass
class Done:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ft(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return Done(left.value.code, *capsys.readouterr())

    return run


def test_the_yaml_goes_to_standard_output_and_the_list_to_standard_error(tmp_path, ft):
    (tmp_path / "sft.yaml").write_text(TRL)
    done = ft("convert", "sft.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Converted from TRL's sft.yaml")
    for part in (
        "a config of TRL: it has dataset_name, use_peft",
        "carried over:",
        "not carried over: 2 keys",
        "push_to_hub: true  (nothing is uploaded by training)",
        "hub_token: ***",
        "next: ",
    ):
        assert part in done.stderr
    assert "abcdefghij" not in done.stdout + done.stderr


def test_the_file_that_is_written_is_valid(tmp_path, ft):
    (tmp_path / "sft.yaml").write_text(TRL)
    done = ft("convert", "sft.yaml", "-o", "configs/run.yml")
    assert (done.returncode, done.stdout) == (0, "")
    assert "next: ft validate configs/run.yml" in done.stderr
    checked = ft("validate", "configs/run.yml")
    assert checked.returncode == 0, checked.stderr
    assert "acme/chats as chat_template" in checked.stdout


def test_nothing_is_overwritten_unasked(tmp_path, ft):
    (tmp_path / "sft.yaml").write_text(TRL)
    (tmp_path / "run.yml").write_text("mine\n")
    again = ft("convert", "sft.yaml", "-o", "run.yml")
    assert again.returncode == 2
    assert (
        "--output: run.yml is there already\n  name another file, or add --overwrite"
        in again.stderr
    )
    assert (tmp_path / "run.yml").read_text() == "mine\n"
    assert ft("convert", "sft.yaml", "-o", "run.yml", "--overwrite").returncode == 0
    itself = ft("convert", "sft.yaml", "-o", "sft.yaml", "--overwrite")
    assert itself.returncode == 2
    assert "is the file that is converted" in itself.stderr


def test_what_is_left_to_do_is_said(tmp_path, ft):
    (tmp_path / "a.yaml").write_text("stage: sft\ntemplate: qwen\n")
    done = ft("convert", "a.yaml")
    assert done.returncode == 0
    assert "still to be done before `ft validate` passes:\n  base_model is missing" in done.stderr


def test_wrong_files(tmp_path, ft):
    (tmp_path / "ours.yml").write_text("base_model: a\n")
    for arguments, says in (
        (("none.yaml",), "no such file"),
        (("ours.yml",), "nothing to convert\n  ft validate ours.yml"),
        (("ours.yml", "--from", "lama-factory"), "did you mean llama-factory?"),
    ):
        done = ft("convert", *arguments)
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr


def test_it_is_light(tmp_path):
    (tmp_path / "sft.yaml").write_text(TRL)
    code = (
        "import sys\n"
        "from ft.cli.app import app\n"
        "app(['convert', 'sft.yaml'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""Hostile paths: each is refused with words, or used as it stands; nothing is removed or followed."""

import os
import re
import sys

import pytest

import runs
from ft.cli import main
from ft.cli.output import say

RUNS = "used as it stands"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def left_by(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("output_dir", "expected"),
    [
        ("a_file", "is a file"),
        ("a_file/out", "cannot be written|is a file|Not a directory"),
        ("/", "has files in it that are not from ft"),
        (".", "has files in it that are not from ft"),
        ("elsewhere", "has files in it that are not from ft"),
        ("link", "has files in it that are not from ft"),
        ("loop", "cannot be written|is a file|symbolic links"),
        ("/proc/nothing/out", "cannot be written"),
        ("/dev/null", "is a file"),
        (
            "two\nlines",
            r"c\w*\.yml:\d+:\d+: output_dir holds a line break|run\.yml:\d+:\d+: output_dir holds",
        ),
        ("x" * 300, "longer than the name of a file can be"),
        ("x/" * 3000, "longer than the name of a file can be"),
        ("~nobody_here/out", "a user that this machine does not have: ~nobody_here"),
        ("nul\0byte", "holds a line break or another control character"),
        ("half\ud83d", "half a character|not valid YAML"),
        ("", "has files in it that are not from ft"),
    ],
)
def test_output_folders(output_dir, expected, folder, tiny_llama, capsys):
    config = runs.write_config(folder, tiny_llama, max_steps=1, output_dir=output_dir)
    code, error = left_by(capsys, "train", config)
    assert code == 2, error
    assert re.search(expected, error), error
    assert "Traceback" not in error
    assert (folder / "elsewhere" / "precious").exists()
    assert (folder / "a_file").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "leads_to"),
    [
        ("checkpoints", "elsewhere"),
        ("checkpoints", "not_there"),
        ("merged", "elsewhere"),
        ("events.jsonl", "a_file"),
        ("resolved.yml", "a_file"),
        ("prompt.json", "a_file"),
        ("run.json", "not_there"),
        (".lock", "a_file"),
        ("evaluation.json", "a_file"),
    ],
)
@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["anew", "over it"])
def test_a_link_in_the_output_folder_is_not_followed(
    name, leads_to, overwrite, folder, tiny_llama, capsys
):
    (folder / "out").mkdir()
    (folder / "out" / name).symlink_to(folder / leads_to)
    config = runs.write_config(folder, tiny_llama, max_steps=1)
    code, error = left_by(capsys, "train", config, *overwrite)
    assert code == 2, error
    assert f"{name}: is a link, which a run does not follow" in error
    assert [path.name for path in (folder / "elsewhere").iterdir()] == ["precious"]
    assert (folder / "a_file").read_text() == "x"
    assert not (folder / "not_there").exists()


def test_an_output_folder_that_is_a_link_to_an_empty_one_is_used_as_it_stands(
    folder, tiny_llama, capsys
):
    """As to a larger disk; what a run is, is in the folder that the link names."""
    (folder / "large_disk").mkdir()
    (folder / "out").symlink_to("large_disk")
    config = runs.write_config(folder, tiny_llama, num_records=4, max_steps=1)
    code, error = left_by(capsys, "train", config)
    assert code == 0, error
    assert (folder / "large_disk" / "run.json").is_file()
    assert (folder / "out").is_symlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_may_not_be_written(folder, tiny_llama, capsys):
    (folder / "closed").mkdir(mode=0o500)
    config = runs.write_config(folder, tiny_llama, output_dir="closed/out")
    assert "cannot be written" in left_by(capsys, "train", config)[1]


@pytest.mark.parametrize(
    "name", ["with spaces", "ünïcode 日本", "$(touch CANARY)", "`x`;y", "-rf", "a'b\"c", "%s{}"]
)
def test_odd_names_are_names(name, folder, tiny_llama, capsys):
    config = runs.write_config(folder, tiny_llama, num_records=4, max_steps=1, output_dir=name)
    code, error = left_by(capsys, "train", config)
    assert code == 0, error
    assert (folder / name / "run.json").is_file()
    assert not (folder / "CANARY").exists()


@pytest.mark.parametrize(
    "key",
    ["base_model", "tokenizer_config", "lora_model_dir", "datasets.0.path", "datasets.0.type"],
)
@pytest.mark.parametrize(
    "name",
    ["../" * 60 + "x", "x" * 5000, "a_file", "/dev/zero", "~nobody_here/x", "loop", "//", "a\tb"],
)
def test_other_places(key, name, folder, tiny_llama, capsys):
    config = runs.write_config(folder, tiny_llama, max_steps=1)
    code, error = left_by(capsys, "train", config, f"--{key}", name)
    assert code == 2, error
    assert "Traceback" not in error
    assert len(error) < 9000


def test_nothing_that_is_said_steers_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    say("\x1b]0;owned\x07red\x1b[31m\r\n\tindented 日本\u202e")
    assert (
        capsys.readouterr().out == "\\x1b]0;owned\\x07red\\x1b[31m\\x0d\n\tindented 日本<U+202E>\n"
    )

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ft.model.tokenizer_identity import tokenizer_identity
from ft.spec.runspec import ModelSpec, SpecialTokens


@pytest.fixture
def folder(tiny_llama, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "base"))


def identify(folder: Path, **keys) -> str | None:
    return tokenizer_identity(ModelSpec(base_model=str(folder), **keys))


def test_weights_and_names_do_not_count(folder):
    before = identify(folder)
    (folder / "model.safetensors").write_bytes(b"other weights")
    (folder / "README.md").write_text("other words")
    moved = folder.rename(folder.with_name("moved"))
    assert before == identify(moved) is not None


def test_every_file_of_the_tokenizer_counts(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    sums = {identify(folder)}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        with (folder / name).open("a") as file:
            file.write(" ")
        sums.add(identify(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    sums.add(identify(folder))
    assert len(sums) == 5


def test_what_the_yaml_adds_counts(folder):
    sums = {
        identify(folder),
        identify(folder, tokens=("<new>",)),
        identify(folder, special_tokens=SpecialTokens(eos_token="<|endoftext|>")),
        identify(folder, special_tokens=SpecialTokens(pad_token="<|endoftext|>")),
    }
    assert len(sums) == 4


def test_the_tokenizers_own_folder_is_the_one_that_is_read(folder, tiny_llamas):
    other = tiny_llamas["gpt2"]
    assert identify(folder, tokenizer_config=str(other)) == identify(other)
    assert identify(folder) != identify(other)


def test_a_hub_name_is_told_by_the_files_that_were_downloaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert identify(Path("somebody/something")) is None
    repository = tmp_path / "hub" / "models--somebody--something"
    shutil.copytree(folder, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert identify(Path("somebody/something")) == identify(folder)
    assert identify(Path("somebody/something"), revision_of_model="v2") is None
    assert identify(Path("a/folder/that/is/not/there")) is None

"""Secrets in the environment and in a YAML: they reach no file of a run and no word of a log."""

import os
import subprocess
import sys

import pytest

import runs

HUB_TOKEN = "hf_" + "CanaryCanaryCanaryCanary42"
KEY = "0123456789abcdefcanary0123456789abcdef42"
ENVIRONMENT = {
    "HF_TOKEN": HUB_TOKEN,
    "WANDB_API_KEY": KEY,
    "OPENAI_API_KEY": "sk-canary" + "x" * 24,
}


def ft(folder, *arguments):
    """A process of its own, with secrets in its environment, and all that it leaves behind."""
    environment = {
        **os.environ, **ENVIRONMENT, "XDG_CACHE_HOME": str(folder / "cache"),
        "XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }  # fmt: skip
    command = [sys.executable, "-m", "ft", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done, done.stdout + done.stderr


def places_of_secrets(folder, output, *known_files):
    secrets = [value.encode() for value in ENVIRONMENT.values()]
    files = [path for path in folder.rglob("*") if path.is_file() and path not in known_files]
    found = [str(path) for path in files if any(each in path.read_bytes() for each in secrets)]
    return found + ["output" for each in secrets if each.decode() in output]


def test_secrets_of_the_environment_reach_no_file(tmp_path, tiny_llama):
    config = runs.write_config(tmp_path, tiny_llama, num_records=8, max_steps=1)
    done, output = ft(tmp_path, "train", config, "--debug")
    assert done.returncode == 0, output
    assert (tmp_path / "out/run.json").is_file()
    merging, said = ft(tmp_path, "merge", "out", "--debug")
    assert merging.returncode == 0, said
    assert (tmp_path / "out/merged/model.safetensors").is_file()
    assert not places_of_secrets(tmp_path, output + said)


@pytest.mark.parametrize(
    "keys",
    [
        {"hf_token": HUB_TOKEN},
        {"wandb_api_key": KEY},
        {"wandb_project": HUB_TOKEN},
        {"hub_model_id": f"https://user:{KEY}@host/x"},
        {HUB_TOKEN: 1},
    ],
)
def test_secrets_in_a_yaml_are_refused_and_never_repeated(keys, tmp_path, tiny_llama):
    config = runs.write_config(tmp_path, tiny_llama, **keys)
    done, output = ft(tmp_path, "validate", config)
    assert done.returncode == 2
    assert not places_of_secrets(tmp_path, output, config)


def test_a_strategy_that_fails_shows_no_secret_of_the_environment(tmp_path, tiny_llama):
    """Its own words are shown: those it has to keep clean itself; ours hold no environment."""
    (tmp_path / "s.py").write_text("def segments(record):\n    raise RuntimeError('on purpose')\n")
    config = runs.write_config(tmp_path, tiny_llama)
    done, output = ft(tmp_path, "train", config, "--datasets.0.type", "./s.py", "--debug")
    assert done.returncode == 2
    assert "on purpose" in output
    assert not places_of_secrets(tmp_path, output)

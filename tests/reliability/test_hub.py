"""A hub that is away, fails, stumbles or moves: told in seconds, or done without; never another base."""

import os
import re
import shutil
import sys
import time

import pytest
import torch
from hub_stub import COMMITS, NAME, Hub
from safetensors.torch import load_file, save_file

from runs import curve, events, start_ft, write_config

PATIENCE_S = 300
"""A command takes some seconds; on a machine that does much else, many."""


@pytest.fixture
def hub(tiny_llama, tmp_path):
    """A repository whose second commit has other weights."""
    second = shutil.copytree(tiny_llama, tmp_path / "second")
    weights = load_file(second / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, second / "model.safetensors", metadata={"format": "pt"})
    hub = Hub({COMMITS["first"]: tiny_llama, COMMITS["second"]: second})
    yield hub
    hub.close()


@pytest.fixture
def ft(hub, tmp_path):
    """`ft` with that hub and a cache of its own."""

    def ft(*arguments, is_online=True):
        environment = {
            "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0" if is_online else "1",
            "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        started = time.monotonic()
        process = start_ft(*arguments, env=environment)
        _, error = process.communicate(timeout=PATIENCE_S)
        return process.returncode, error, time.monotonic() - started

    return ft


def config_of(folder, **keys):
    return write_config(folder, NAME, num_records=8, **{"max_steps": 2, **keys})


@pytest.mark.parametrize("fault", [500, 503, 429, "away"])
def test_a_hub_that_fails_is_told_within_seconds(fault, hub, ft, tmp_path):
    if fault == "away":
        hub.close()
    else:
        hub.fault = fault
    code, error, took_s = ft("train", config_of(tmp_path))
    assert code == 2, error
    assert re.search(r"run\.yml:\d+:\d+: .*hub is out of reach", error), error
    assert "Traceback" not in error
    assert took_s < PATIENCE_S / 5
    assert sum(hub.asked.values()) < 10


@pytest.mark.slow
def test_what_is_in_the_cache_needs_no_hub(hub, ft, tmp_path):
    assert ft("train", config_of(tmp_path))[0] == 0
    first = curve(tmp_path / "out")
    hub.fault = 500
    hub.asked.clear()
    code, error, _ = ft("train", config_of(tmp_path), "--overwrite")
    assert code == 0, error
    assert curve(tmp_path / "out") == first
    assert sum(hub.asked.values()) <= 2, "asked once each by the front door and by the run"
    hub.close()
    code, error, _ = ft("train", config_of(tmp_path), "--overwrite", is_online=False)
    assert code == 0, error
    assert curve(tmp_path / "out") == first


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slow", "half"])
def test_a_download_that_stumbles_is_whole_in_the_end(fault, hub, ft, tmp_path):
    hub.fault = fault
    code, error, _ = ft("train", config_of(tmp_path))
    assert code == 0, error
    hub.fault = ""
    (tmp_path / "again").mkdir()
    assert ft("train", config_of(tmp_path / "again"))[0] == 0
    assert curve(tmp_path / "out") == curve(tmp_path / "again" / "out")


@pytest.mark.slow
def test_a_download_that_never_gets_on_ends_with_words(hub, ft, tmp_path):
    hub.fault = "cut"
    code, error, _ = ft("train", config_of(tmp_path))
    assert code == 2, error
    assert "Traceback" not in error
    hub.fault = ""
    assert ft("train", config_of(tmp_path))[0] == 0, "the next command has all of it"


def test_a_base_that_moved_under_a_run_stays_what_it_was(hub, ft, tmp_path):
    """Stopped, moved, resumed, merged: all with the commit that the run began with."""
    config = config_of(tmp_path, num_epochs=500, max_steps=None, save_steps=1)
    assert ft("train", config, "--max-time", "2s")[0] == 143
    out = tmp_path / "out"
    done = len(curve(out))
    hub.main = COMMITS["second"]
    assert ft("train", config, "--max-time", "2s")[0] == 143
    assert events(out, "resumed")[0]["step"] == done
    assert [each["base_revision"] for each in events(out, "model")] == [COMMITS["first"]] * 2
    (tmp_path / "anew").mkdir()
    assert ft("train", config_of(tmp_path / "anew"))[0] == 0
    assert events(tmp_path / "anew" / "out", "model")[0]["base_revision"] == COMMITS["second"]


@pytest.mark.slow
def test_a_finished_run_is_merged_onto_the_commit_that_it_was_trained_on(hub, ft, tmp_path):
    assert ft("train", config_of(tmp_path, max_steps=6))[0] == 0
    hub.main = COMMITS["second"]
    code, error, _ = ft("merge", tmp_path / "out")
    assert code == 0, error
    merged = load_file(tmp_path / "out" / "merged" / "model.safetensors")["model.norm.weight"]
    assert torch.equal(merged.float(), torch.ones(len(merged))), "the norm of the first commit"

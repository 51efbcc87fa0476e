"""Every example runs as written, but for a tiny base, fewer steps, and hub sets from a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from ft.evaluate.answer import open_answerer
from ft.evaluate.generate import Sampling
from ft.evaluate.trained import open_run
from ft.spec import load_spec
from runs import curve, events, run, write_records

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ("--max-steps", "2")


def config_of(name):
    return EXAMPLES / name / f"{name}.yml"


def train(name, base, out, *options):
    arguments = ("--base-model", str(base), "--output-dir", str(out), *SMALL, *options)
    run(config_of(name), *arguments)
    return out


@pytest.fixture(scope="module")
def llama(tiny_llamas):
    """A base like those that the examples name: no chat template, no pad token."""
    return tiny_llamas["llama"]


def test_each_is_a_folder_with_a_config_a_page_and_what_came_out():
    names = {path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {
        "quickstart",
        "distillation",
    }
    assert names >= {"sql", "sentiment_zh", "classify", "mistral", "code", "pretrain", "full",
                     "prompt_tuning"}  # fmt: skip
    for name in names:
        assert config_of(name).is_file(), name
        page = (EXAMPLES / name / "README.md").read_text("utf-8")
        assert len(page.splitlines()) <= 25, f"{name}: ten lines or so"
        assert f"ft train examples/{name}/{name}.yml" in page
        assert (EXAMPLES / name / "expected.txt").read_text("utf-8").startswith("$ ft train")


@pytest.mark.parametrize(
    "name", ["sql", "sentiment_zh", "mistral", "code", "pretrain", "full", "prompt_tuning"]
)
def test_every_key_works_here(name):
    """No old name, no key without effect: what an example shows is what one should write."""
    loaded = load_spec(config_of(name))
    assert not loaded.notices, loaded.notices


def test_sql_learns_the_answer_and_strips_its_prefix(tmp_path, llama):
    records = write_records(tmp_path / "know_sql.jsonl", 40)
    options = ("--datasets.0.path", str(records), "--val-set-size", "8")
    out = train("sql", llama, tmp_path / "out", *options)
    assert len(curve(out)) == 2
    answerer = open_answerer(open_run(out))
    asked = answerer.tokenizer.decode(answerer.prompt({"context": "C"}, text="Q"))
    assert asked.endswith("Context: C\nQuestion: Q\n")


def test_sentiment_is_asked_with_its_own_template_and_ends_by_itself(tmp_path, llama):
    out = train("sentiment_zh", llama, tmp_path / "out")
    assert config_value("sentiment_zh", "max_steps") == 60
    assert config_value("sentiment_zh", "save_total_limit") == 2
    data = next(iter(events(out, "data")))
    assert "10" in str(data["summary"])
    answerer = open_answerer(open_run(out))
    prompt = answerer.prompt({"input": "很好"}, text="判断情感")
    asked = answerer.tokenizer.decode(prompt)  # this tokenizer's bytes are special tokens to it
    assert (
        asked.removeprefix("<s>").strip(" ")
        == "### 指令:\n判断情感\n\n### 输入:\n很好\n\n### 响应:\n"
    )
    assert answerer.tokenizer.eos_token_id in answerer.stop_token_ids
    answerer.answer(prompt, Sampling(max_new_tokens=4))


def test_mistral_groups_by_length_and_tracks_offline(tmp_path, llama, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    out = train("mistral", llama, tmp_path / "out", "--logging-steps", "1")
    assert len(curve(out)) == 2
    assert list(tmp_path.rglob("offline-run-*")), "the tracker's own files"


def test_code_mixes_layouts(tmp_path, llama):
    evol = tmp_path / "evol.jsonl"
    rows = ({"instruction": f"Add {i} and 1.", "output": f"print({i} + 1)"} for i in range(20))
    evol.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--datasets.0.path", str(evol), "--datasets.0.split", "null")
    out = train("code", llama, tmp_path / "out", *options)
    assert len(curve(out)) == 2


def test_pretraining_trains_every_token(tmp_path, tiny_llama):
    out = train("pretrain", tiny_llama, tmp_path / "out")
    for step in events(out, "step"):
        assert step["num_trained_tokens"] > 0.9 * step["num_tokens"]


def test_full_trains_all_parameters_or_those_that_are_named(tmp_path, tiny_llama):
    out = train("full", tiny_llama, tmp_path / "all")
    (model,) = events(out, "model")
    assert model["num_trainable"] == model["num_parameters"]
    assert (out / "model.safetensors").exists()


def test_prompt_tuning_trains_its_positions_alone(tmp_path, tiny_llama):
    out = train("prompt_tuning", tiny_llama, tmp_path / "out")
    (model,) = events(out, "model")
    assert model["num_trainable"] == 16 * 64, "positions x width of the tiny base"
    answerer = open_answerer(open_run(out))
    prompt = answerer.prompt({"input": "The box was empty."}, text="Sort this message.")
    answerer.answer(prompt, Sampling(max_new_tokens=4))


def config_value(name, key):
    return yaml.safe_load(config_of(name).read_text("utf-8"))[key]


def test_pages_name_files_that_are_there():
    for page in EXAMPLES.glob("*/README.md"):
        for name in re.findall(r"`([\w./]+\.(?:jsonl|json|yml|py|txt))`", page.read_text("utf-8")):
            assert (page.parent / name).exists() or (EXAMPLES.parent / name).exists(), (page, name)

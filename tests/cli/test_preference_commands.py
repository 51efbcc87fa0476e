"""A file for preference tuning, as a user types it: it can be looked at, and not be trained yet."""

import json
import os
import subprocess
import sys

import pytest
import yaml

import tiny


def ft(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "ft", *map(str, arguments)],
        cwd=cwd, capture_output=True, encoding="utf-8", timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A config with rl: dpo, its records, and a base of which only the tokenizer is there."""
    folder = tmp_path_factory.mktemp("project")
    tiny.chatml_tokenizer().save_pretrained(folder / "base")
    pairs = [{"question": f"{n}+{n}?", "chosen": f"{n + n}", "rejected": "0"} for n in range(1, 9)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    config = {
        "base_model": "./base",
        "adapter": "lora",
        "lora_target_linear": True,
        "rl": "dpo",
        "rl_beta": 0.1,
        "datasets": [{"path": "pairs.jsonl", "type": "chatml.intel"}],
        "learning_rate": 1e-3,
    }
    (folder / "run.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def test_a_preview_shows_both_answers(project):
    shown = ft("preview", "run.yml", "--html", "p.html", "--dump", "d.jsonl", cwd=project)
    assert shown.returncode == 0, shown.stderr
    for part in (
        "no effect here: rl_beta",
        "pairs.jsonl:1  chosen: ",
        "⟦2<|im_end|>⟧",
        "pairs.jsonl:1  rejected: ",
        "⟦0<|im_end|>⟧",
        "8 of 8 records",
        "training with preferences (dpo) is not built yet",
    ):
        assert part in shown.stdout
    rows = [json.loads(line) for line in (project / "d.jsonl").read_text().splitlines()]
    assert [row["part"] for row in rows] == ["chosen", "rejected"] * 8
    assert "rejected: " in (project / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["train", "validate", "preprocess"])
def test_everything_else_refuses_it_where_it_stands(project, command):
    refused = ft(command, "run.yml", cwd=project)
    assert refused.returncode == 2
    assert "run.yml:4:1: rl: dpo asks for preference tuning, which is not built yet" in (
        refused.stderr
    )
    assert "`ft preview run.yml` shows its records" in refused.stderr
    assert "rl_beta" not in refused.stderr, "one mistake, one message"


def test_a_layout_that_is_not_there_is_placed(project):
    failed = ft("preview", "run.yml", "--datasets.0.type", "chatml.intell", cwd=project)
    assert failed.returncode == 2
    assert "--datasets.0.type: dpo has no layout 'chatml.intell'" in failed.stderr
    assert "did you mean chatml.intel?" in failed.stderr

"""`ft preprocess` as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runs import write_config


def ft(*arguments, cwd, code=None):
    command = ["-c", code] if code else ["-m", "ft"]
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd / "caches")},
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_llama) -> Path:
    """A folder whose data is tokenized."""
    folder = tmp_path_factory.mktemp("project")
    write_config(folder, tiny_llama, num_epochs=1, val_set_size=4)
    made = ft("preprocess", "run.yml", cwd=folder)
    assert made.returncode == 0, made.stderr
    (folder / "made.log").write_text(made.stdout)
    return folder


def test_it_tells_what_it_did_and_where_that_is(project):
    log = (project / "made.log").read_text()
    (entry,) = (path for path in (project / "caches/ft/tokenized").iterdir() if path.is_dir())
    for part in ("18 records read, 18 kept", "14 rows to train on, 4 held out", f"kept: {entry} ("):
        assert part in log


HIT = """
import sys
from ft.cli.app import main
try:
    main(["preprocess", *sys.argv[1:]])
finally:
    heavy = {"torch", "transformers", "datasets"} & set(sys.modules)
    print("imported:", sorted(heavy))
"""


def test_what_is_done_is_said_at_once_and_imports_nothing_heavy(project):
    again = ft("run.yml", "--output-dir", "elsewhere", "--seed", "7", cwd=project, code=HIT)
    assert again.returncode == 0, again.stderr
    assert "14 rows to train on, 4 held out (tokens from the cache)" in again.stdout
    assert "up to date: " in again.stdout
    assert "imported: []" in again.stdout


def test_train_finds_what_was_prepared(project):
    trained = ft("train", "run.yml", "--output-dir", "out", "--max-steps", 1, cwd=project)
    assert trained.returncode == 0, trained.stderr
    assert "(tokens from the cache)" in trained.stdout
    events = (project / "out/events.jsonl").read_text().splitlines()
    (data,) = (json.loads(line) for line in events if '"event": "data"' in line)
    assert data["is_from_cache"] is True


def test_a_folder_of_ones_own(project):
    made = ft("preprocess", "run.yml", "--dataset-prepared-path", "prepared", cwd=project)
    assert made.returncode == 0, made.stderr
    assert f"kept: {project / 'prepared'}" in made.stdout


def test_data_that_train_would_refuse_is_refused(project):
    refused = ft("preprocess", "run.yml", "--sequence-len", 8, cwd=project)
    assert refused.returncode == 2
    assert "max_drop allows 1.0%" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_end_that_a_template_leaves_untrained_is_refused_before_the_model_is_loaded(project):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (project / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (project / "ends.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|endoftext|>\n{% endfor %}"
    )
    options = (
        "--datasets.0.path", "chats.jsonl", "--datasets.0.type", "chat_template", "--val-set-size", 0,
        "--chat-template", "jinja", "--chat-template-jinja", "ends.jinja",
    )  # fmt: skip
    for command in ("preprocess", "train"):
        refused = ft(command, "run.yml", *options, "--output-dir", "out-ends", cwd=project)
        assert refused.returncode == 2
        assert "eot_tokens: ['<|endoftext|>']" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not list((project / "out-ends").glob("*.safetensors"))

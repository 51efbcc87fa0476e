"""The commands as a user types them: real processes, their output and their exit codes."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from ft.cli.app import app
from ft.cli.grouping import CHECK, START, TRAIN, USE
from runs import curve, write_config

RECORD = {"question": "How many?", "context": "CREATE TABLE t (c INTEGER)"}


def ft(*arguments, cwd=None, text_in=None, environment=None, timeout=120):
    return subprocess.run(
        [sys.executable, "-m", "ft", *map(str, arguments)],
        cwd=cwd,
        input=text_in,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_llama):
    """A folder with a config and a finished run."""
    folder = tmp_path_factory.mktemp("project")
    config = write_config(folder, tiny_llama, num_epochs=2, val_set_size=4, wandb_watch="all")
    trained = ft("train", config.name, "--output-dir", "out", cwd=folder)
    assert trained.returncode == 0, trained.stderr
    (folder / "train.log").write_text(trained.stdout)
    return folder


def test_train_tells_what_happens_and_what_to_type_next(project):
    log = (project / "train.log").read_text()
    for part in (
        "no effect here: wandb_watch",
        "18 records read, 18 kept",
        "14 rows to train on, 4 held out",
        "attention: sdpa",
        "step 0: held-out loss",
        "step 8/8  loss",
        "checkpoint saved",
        "done in",
        "next: ft infer out",
    ):
        assert part in log
    assert "\x1b[" not in log, "no terminal, no control characters"
    assert "Warning" not in log


def test_the_finished_run_says_so(project):
    again = ft("train", "run.yml", "--output-dir", "out", cwd=project)
    assert again.returncode == 0
    assert "finished already; --overwrite trains anew" in again.stdout


def test_infer_in_its_ways(project):
    question = ("--prompt", "How many?", "--max-new-tokens", 3)
    missing = ft("infer", *question, cwd=project)
    assert missing.returncode == 2
    assert "--field context=" in missing.stderr
    assert "using out" in missing.stderr
    given = ft("infer", "out", *question, "--field", f"context={RECORD['context']}", cwd=project)
    assert given.returncode == 0
    record = ft("infer", "out", "--record", json.dumps(RECORD), "--max-new-tokens", 3, cwd=project)
    assert record.returncode == 0
    asked = [f"--field={name}={RECORD[name]}" for name in ("question", "context")]
    fields = ft("infer", "out", *asked, "--max-new-tokens", 3, cwd=project)
    assert fields.stdout == record.stdout, fields.stderr
    assert "How many?" not in record.stdout, "the answer, not the question"


def test_infer_from_a_file_and_in_a_chat(project):
    (project / "questions.jsonl").write_text((json.dumps(RECORD) + "\n") * 2)
    asked = ft(
        "infer", "out", "--input", "questions.jsonl", "--output", "answers.jsonl",
        "--max-new-tokens", 2, cwd=project,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    answers = [json.loads(line) for line in (project / "answers.jsonl").read_text().splitlines()]
    assert [set(answer) for answer in answers] == [{"question", "context", "prediction"}] * 2
    chat = ft(
        "infer", "out", "--chat", "--field", "context=x", "--max-new-tokens", 2,
        cwd=project, text_in="How many?\n\nAnd now?\n",
    )  # fmt: skip
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.count("\n") == 2


def test_merge_eval_and_the_merged_model(project):
    evaluated = ft("eval", "out", "--num-records", 2, "--max-new-tokens", 4, cwd=project)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "base" in evaluated.stdout
    assert (project / "out" / "evaluation.json").exists()
    merged = ft("merge", "out", cwd=project)
    assert merged.returncode == 0, merged.stderr
    assert "mean KL" in merged.stdout
    asked = ft("infer", "out/merged", "--record", json.dumps(RECORD), cwd=project)
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trian",), "train"),
        (("train",), "CFG"),
        (("train", "none.yml"), "no such file"),
        (("train", "run.yml", "--lora-rr", "4"), "did you mean lora_r?"),
        (("train", "run.yml", "--lora-r", "many"), "--lora-r: lora_r: got 'many'"),
        (("train", "run.yml", "--datasets.0.path", "dta.jsonl"), "data.jsonl"),
        (("train", "run.yml", "--datasets.0.type", "contxt_qa"), "context_qa"),
        (("train", "run.yml", "--base-model", "./none"), "--base-model"),
        (("validate", "run.yml", "--load-in-4bit", "--load-in-8bit"), "both on"),
        (("infer", "out"), "nothing to ask"),
        (("infer", "out", "--prompt", "x", "--chat"), "more than one"),
        (("infer", "none", "--prompt", "x"), "no such folder"),
        (("infer", "out", "--record", "{"), "no JSON"),
        (("infer", "out", "--prompt", "x", "--field", "contxt=y"), "no field 'contxt'"),
        (("infer", "out", "--prompt", "x", "--top-p", "0.5"), "--temperature"),
        (("infer", "out", "--input", "data.jsonl", "--output", "data.jsonl"), "overwritten"),
        (("merge", "none"), "no such folder"),
        (("merge", "run.yml"), "no such folder"),
        (("merge", "out", "--onto", "4bit"), "expected dequantized or plain"),
        (("report", "run.yml"), "not built yet"),
    ],
)
def test_wrong_input_exits_2_without_a_traceback(project, arguments, says):
    failed = ft(*arguments, cwd=project)
    assert failed.returncode == 2
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_base_that_is_not_to_be_had_is_told_at_its_line_before_anything_is_loaded(tmp_path):
    config = write_config(tmp_path, Path("nobody/nothing-of-the-kind"))
    refused = ft("train", config, environment={"HF_HUB_OFFLINE": "1"}, timeout=20)
    assert refused.returncode == 2
    line = config.read_text().splitlines().index("base_model: nobody/nothing-of-the-kind") + 1
    assert f"{config.name}:{line}:1: base_model: nobody/nothing-of-the-kind" in refused.stderr
    assert "--base-model FOLDER" in refused.stderr


def test_a_failing_strategy_shows_its_own_error(project):
    (project / "mine.py").write_text("import not_there_at_all\ndef load(tokenizer, cfg): ...\n")
    failed = ft(
        "train", "run.yml", "--datasets.0.type", "./mine.py", "--output-dir", "o2", cwd=project
    )
    assert failed.returncode == 2
    assert "not_there_at_all" in failed.stderr
    assert "mine.py:1" in failed.stderr


def test_debug_adds_the_traceback(project):
    failed = ft("train", "none.yml", "--debug", cwd=project)
    assert failed.returncode == 2
    assert "Traceback" in failed.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, tiny_llama, project, number, code):
    config = write_config(tmp_path, tiny_llama, num_epochs=40)
    command = [sys.executable, "-m", "ft", "train", str(config)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not curve(tmp_path / "out"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "which is saved" in error
    done = len(curve(tmp_path / "out"))
    assert done < 200, "stopped before its end"
    again = ft("train", config, "--max-steps", "null")
    assert again.returncode == 0, again.stderr
    assert f"going on from step-{done:06d}" in again.stdout
    assert [step for step, *_ in curve(tmp_path / "out")] == list(range(1, 201))


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("SIGINT", 130, "interrupted\n"), ("SIGTERM", 143, "stopped by SIGTERM\n")],
)
def test_a_signal_while_the_commands_are_read_is_no_traceback(tmp_path, name, code, word):
    """One of the first modules that they import sends it, so that it comes at that moment."""
    path = tmp_path / "typer.py"
    path.write_text(f"import os, signal\nos.kill(os.getpid(), signal.{name})\nimport time\n")
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    stopped = ft("validate", "c.yml", environment={**os.environ, "PYTHONPATH": paths})
    assert (stopped.returncode, stopped.stderr) == (code, word)


@pytest.mark.parametrize("moment", ["atexit.register(send)", "late = Late()"])
@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["no-such-command"], 2)])
def test_a_signal_after_the_command_changes_no_exit_code(moment, arguments, code):
    """The interpreter takes a while to end once torch is loaded."""
    program = (
        "import atexit, os, signal, sys\n"
        "from ft.cli import program\n"
        "def send(kill=os.kill, me=os.getpid(), numbers=(signal.SIGINT, signal.SIGTERM)):\n"
        "    for number in numbers:\n"
        "        kill(me, number)\n"
        "class Late:\n"
        "    def __del__(self, send=send): send()\n"
        f"sys.argv = {['ft', *arguments]!r}\n"
        f"{moment}\n"
        "program()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ignored" not in ended.stderr


def test_the_end_waits_for_what_libraries_clean_up_and_for_nothing_else():
    """Python's own taking down lasts seconds once torch is loaded."""
    program = (
        "import atexit, os, sys, threading, time\n"
        "from ft.cli import program\n"
        "class Late:\n"
        "    def __del__(self, write=os.write): write(2, b'taken down')\n"
        "late = Late()\n"
        "def work():\n"
        "    time.sleep(0.5)\n"
        "    print('worked')\n"
        "    atexit.register(print, 'cleaned up')  # as a library does once it is loaded\n"
        "threading.Thread(target=work).start()\n"
        "sys.argv = ['ft', '--version']\n"
        "program()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1:] == ["worked", "cleaned up"]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, num_epochs=400)
    first = subprocess.Popen(
        [sys.executable, "-m", "ft", "train", str(config)], stdout=subprocess.DEVNULL
    )
    while not curve(tmp_path / "out"):
        assert first.poll() is None
        time.sleep(0.01)
    try:
        times_s = []
        for _ in range(3):  # the run itself, and other tests, want the same cores
            started = time.monotonic()
            second = ft("train", config)
            times_s.append(time.monotonic() - started)
    finally:
        first.kill()
        first.wait()
    assert min(times_s) < 2, "told at the front door, before anything is loaded"
    assert second.returncode == 2
    assert f"in use by process {first.pid}" in second.stderr


def test_a_full_disk_exits_3_and_the_run_goes_on_once_there_is_space(tmp_path, tiny_llama):
    """A real file system of a few hundred kilobytes, where mounting one is allowed."""
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", small], capture_output=True
    )
    if mount.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        config = write_config(tmp_path, tiny_llama, num_epochs=4, save_steps=1, save_total_limit=50)
        arguments = ("train", config, "--output-dir", small / "out")
        full = ft(*arguments)
        assert full.returncode == 3, full.stderr
        assert "no space left" in full.stderr
        assert "Traceback" not in full.stderr
        saved = {path.name for path in (small / "out" / "checkpoints").iterdir()}
        assert saved, "the checkpoints before it are kept"
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        again = ft(*arguments)
        assert again.returncode == 0, again.stderr
        assert f"going on from {max(saved)}" in again.stdout
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_closed_pipe_does_not_stop_the_run(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, num_epochs=2)
    shell = f"{sys.executable} -m ft train {config} | head -1"
    subprocess.run(shell, shell=True, check=True, capture_output=True)
    for _ in range(600):
        run_file = tmp_path / "out" / "run.json"
        if run_file.exists() and json.loads(run_file.read_text())["finished"]:
            return
        time.sleep(0.1)
    raise AssertionError("the run did not finish")


def test_validate_imports_no_torch_and_is_quick():
    config = Path(__file__).parent.parent / "fixtures" / "sql.yml"
    code = (
        "import sys\n"
        "from ft.cli.app import app\n"
        f"app(['validate', {str(config)!r}], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "qlora, r 32, alpha 16, dropout 0.05" in done.stdout


def test_validate_counts_the_steps(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, num_records=21, num_epochs=2, val_set_size=1 / 21)
    shown = ft("validate", config).stdout
    num_steps = int(re.search(r"2 epochs of 20 records = (\d+) steps", shown)[1])
    per_step = int(re.search(r"(\d+) records a step", shown)[1])
    assert num_steps == 2 * math.ceil(20 / per_step)


def test_help_has_every_command_in_a_group_with_an_example():
    shown = ft("--help").stdout
    names = {name for name, command in get_command(app).commands.items() if not command.hidden}
    examples = re.findall(r"^  ft ([a-z]+) .*?  [A-Z]", shown, re.M)
    assert sorted(examples) == sorted(names)
    assert [title for title in (START, CHECK, TRAIN, USE) if f"\n{title}:\n" in shown] == [
        START, CHECK, TRAIN, USE,
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["train", "validate", "merge", "infer", "eval", "doctor"])
def test_help_of_a_command_shows_only_what_it_takes(command):
    shown = ft(command, "--help")
    assert shown.returncode == 0
    options = set(re.findall(r"^  (--[a-z-]+)", shown.stdout, re.M))
    assert ("--prompt" in options) == (command == "infer")
    assert ("--overwrite" in options) == (command == "train")
    assert "--install-completion" not in options

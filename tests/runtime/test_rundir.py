"""The run directory: state, lock, cleaning, finding."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ft.runtime import RunDirectory, UserError, find_newest_run
from ft.runtime.durable import STAGING_PREFIX, retire, staged_folder

HOLD = """
import sys, time, pathlib
from ft.runtime import RunDirectory
with RunDirectory(pathlib.Path(sys.argv[1])).claimed():
    print("held", flush=True)
    time.sleep(60)
"""


def make_run(path, **run):
    path.mkdir(parents=True)
    identity = {"format": 1, "finished": True, "config": "sql.yml", "files": []}
    identity["data"] = {"fingerprint": "x"}
    RunDirectory(path).write_run({**identity, "probe_input_ids": [], **run})
    return path


def test_states(tmp_path):
    assert RunDirectory(tmp_path / "none").state == "empty"
    assert RunDirectory(make_run(tmp_path / "a", finished=False)).state == "unfinished"
    assert RunDirectory(make_run(tmp_path / "b", finished=True)).state == "finished"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.tex").write_text("mine")
    assert RunDirectory(tmp_path / "c").state == "foreign"


def test_clear_leaves_what_is_not_ours(tmp_path):
    run = RunDirectory(make_run(tmp_path / "a", files=["adapter_model.safetensors", "../b"]))
    (run.path / "adapter_model.safetensors").write_text("")
    (tmp_path / "b").write_text("not in the run")
    (run.path / "notes.txt").write_text("mine")
    run.clear()
    assert sorted(path.name for path in run.path.iterdir()) == ["notes.txt"]
    assert (tmp_path / "b").exists(), "run.json can't name files elsewhere"


def test_a_second_process_is_refused_and_a_killed_one_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    started = time.monotonic()
    with pytest.raises(UserError, match=f"process {holder.pid}"), RunDirectory(tmp_path).claimed():
        pass
    assert time.monotonic() - started < 2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with RunDirectory(tmp_path).claimed():
        pass


def test_claiming_removes_what_a_killed_writer_left(tmp_path):
    (tmp_path / f"{STAGING_PREFIX}merged-1").mkdir()
    with RunDirectory(tmp_path).claimed():
        assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


@pytest.mark.parametrize("name", [".tmp-dir", "thesis.tex"])
def test_a_foreign_folder_is_refused_and_not_touched(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="not from ft"), RunDirectory(tmp_path).claimed():
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file"), RunDirectory(tmp_path / "out").claimed():
        pass


def test_a_start_that_failed_leaves_no_foreign_folder(tmp_path):
    with RunDirectory(tmp_path).claimed():
        (tmp_path / "events.jsonl").write_text("")
    assert RunDirectory(tmp_path).state == "empty"


def test_broken_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json"):
        RunDirectory(tmp_path).read_run()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="lacks 'format'"):
        RunDirectory(tmp_path).read_run()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run of ft"):
        RunDirectory(tmp_path / "empty").read_run()
    with pytest.raises(UserError, match="no such folder"):
        RunDirectory(tmp_path / "run.json").read_run()


def test_newest_finished_run_below(tmp_path):
    make_run(tmp_path / "old")
    make_run(tmp_path / "deep" / "new")
    make_run(tmp_path / "under way", finished=False)
    os.utime(tmp_path / "old" / "run.json", (1, 1))
    assert find_newest_run(tmp_path).path == tmp_path / "deep" / "new"
    with pytest.raises(UserError, match="no run found"):
        find_newest_run(tmp_path / "deep" / "new" / "merged")


def test_staged_folder_replaces_only_when_whole(tmp_path):
    target = tmp_path / "merged"
    with staged_folder(target) as staging:
        (staging / "a").write_text("one")
        assert not target.exists()
    with pytest.raises(RuntimeError), staged_folder(target) as staging:
        (staging / "a").write_text("half")
        raise RuntimeError
    assert (target / "a").read_text() == "one"
    with staged_folder(target) as staging:
        (staging / "b").write_text("two")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_run_file_is_plain_json(tmp_path):
    make_run(tmp_path / "a", base_model="x")
    assert json.loads((tmp_path / "a" / "run.json").read_text())["base_model"] == "x"


@pytest.mark.parametrize("leads_to", ["elsewhere", "not_there"])
def test_a_link_gives_way_to_the_folder_and_what_it_led_to_stays(tmp_path, leads_to):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    (tmp_path / "target").symlink_to(leads_to)
    with staged_folder(tmp_path / "target") as staging:
        (staging / "a").touch()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["a"]
    assert not (tmp_path / "target").is_symlink()
    retired = tmp_path / "retired"
    retired.symlink_to("elsewhere")
    retire(retired)
    assert (tmp_path / "elsewhere" / "precious").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "target"]

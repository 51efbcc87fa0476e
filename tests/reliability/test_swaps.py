"""A folder that takes another's place, as a second merge does: killed at every call, one is whole.

Merges write with `staged_folder` alone, so it stands here for them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ft.runtime.durable import remove_leftovers

WRITER = """
import sys
from pathlib import Path
from ft.runtime.durable import staged_folder

with staged_folder(Path(sys.argv[1]) / "merged") as staging:
    for name in ("model.safetensors", "config.json"):
        (staging / name).write_text(sys.argv[2] * 1000)
"""
CALLS = (
    "mkdir",
    "write",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "rmdir",
)


def write(folder: Path, version: str, *strace: str) -> int:
    """Writes a version; the exit code, negative for the signal that killed it."""
    paths = os.pathsep.join(filter(None, sys.path))
    command = [*strace, sys.executable, "-S", "-c", WRITER, str(folder), version]
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode


def version_in(folder: Path) -> str:
    """Of the merge under its name, which must be of one piece; empty if there is none."""
    files = sorted((folder / "merged").glob("*"))
    if not files:
        return ""
    assert [file.name for file in files] == ["config.json", "model.safetensors"]
    (text,) = {file.read_text() for file in files}
    assert len(text) == 1000
    return text[0]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("is_first", [True, False], ids=["the first", "over another"])
def test_a_kill_at_every_call_leaves_the_old_or_the_new(is_first, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    if not is_first:
        assert write(base, "1") == 0
    seen, num_kills = set(), 0
    for call in CALLS:
        for number in range(1, 50):
            folder = shutil.copytree(base, tmp_path / f"{call}{number}")
            inject = f"--inject={call}:signal=KILL:when={number}"
            strace = ("strace", "-qq", "-o", "/dev/null", f"--trace={call}", inject)
            code = write(folder, "2", *strace)
            found = version_in(folder)
            assert found in ("", "2") if is_first else found in ("1", "2"), (call, number)
            remove_leftovers(folder)
            assert {path.name for path in folder.iterdir()} <= {"merged"}
            assert version_in(folder) == found
            shutil.rmtree(folder)
            if code == 0:
                break
            seen.add(found)
            num_kills += 1
    assert num_kills >= 10
    assert seen == ({"", "2"} if is_first else {"1", "2"})


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_files_are_flushed_before_the_names_change(tmp_path):
    assert write(tmp_path, "1") == 0
    trace = tmp_path.with_suffix(".trace")
    strace = ("strace", "-qq", "-y", "-o", str(trace), "--trace=fsync,rename,renameat,renameat2")
    assert write(tmp_path, "2", *strace) == 0
    lines = trace.read_text().splitlines()
    (swap,) = [i for i, line in enumerate(lines) if line.startswith("rename")]
    flushed = [re.search(r"<(.*)>", line)[1] for line in lines if line.startswith("fsync")]
    assert len([line for line in lines[:swap] if line.startswith("fsync")]) == 3
    assert flushed[-1] == str(tmp_path), "and then the folder that holds the names"

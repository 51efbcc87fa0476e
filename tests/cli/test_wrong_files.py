"""Wrong files and what is said of them, one a file in snapshots/: command, YAML, exit code, words.

FT_UPDATE_SNAPSHOTS=1 writes what is said today into the files; read the difference before you keep it.
"""

import os
import re
import resource
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ft.cli import main

SNAPSHOTS = sorted((Path(__file__).parent / "snapshots").glob("*.txt"))
SEPARATOR = "=== exit 2 ===\n"


@dataclass(frozen=True)
class Snapshot:
    command: str
    yaml: str
    said: str

    @classmethod
    def read(cls, path):
        command, _, rest = path.read_text().partition("\n")
        yaml, _, said = rest.partition(SEPARATOR)
        return cls(command, yaml, said)

    def arguments(self):
        assert self.command.startswith("$ ft ")
        return shlex.split(self.command.removeprefix("$ ft "))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the wrong file stands: beside data, a folder that is no model, and a strategy."""
    (tmp_path / "data.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    (tmp_path / "no_model").mkdir()
    (tmp_path / "short.py").write_text("def load(tokenizer, cfg):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.stem)
def test_wrong_files(path, folder, capsys):
    snapshot = Snapshot.read(path)
    (folder / "c.yml").write_text(snapshot.yaml)
    with pytest.raises(SystemExit) as left:
        main(snapshot.arguments())
    out, error = capsys.readouterr()
    error = error.replace(str(folder), "FOLDER")
    assert left.value.code == 2
    assert out == ""
    assert "Traceback" not in error
    if os.environ.get("FT_UPDATE_SNAPSHOTS"):
        path.write_text(f"{snapshot.command}\n{snapshot.yaml}{SEPARATOR}{error}")
        return
    assert error == snapshot.said


def test_there_are_many():
    assert len(SNAPSHOTS) >= 60


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.stem)
def test_each_names_its_place_and_what_to_do(path):
    """A line and column of the file, or the option; files that can't be read have no line."""
    said = Snapshot.read(path).said
    assert re.match(r"(c\.yml(:\d+:\d+)?|none\.yml|no_model|--[\w.-]+): ", said)


def test_places_come_in_order():
    for path in SNAPSHOTS:
        lines = [int(n) for n in re.findall(r"^c\.yml:(\d+):", Snapshot.read(path).said, re.M)]
        assert lines == sorted(lines), path.stem


def test_none_of_them_needs_torch_or_half_a_second(folder):
    """All in one process that never imports a heavy library; three of them timed by themselves."""
    (folder / "cases.txt").write_text("\n".join(map(str, SNAPSHOTS)))
    script = (
        "import sys, pathlib\n"
        "from ft.cli import main\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "for line in pathlib.Path('cases.txt').read_text().splitlines():\n"
        "    command, _, rest = pathlib.Path(line).read_text().partition('\\n')\n"
        f"    pathlib.Path('c.yml').write_text(rest.partition({SEPARATOR!r})[0])\n"
        "    import shlex\n"
        "    try:\n"
        "        main(shlex.split(command.removeprefix('$ ft ')))\n"
        "    except SystemExit as left:\n"
        "        assert left.code == 2, line\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in SNAPSHOTS[:: len(SNAPSHOTS) // 3][:3]:
        snapshot = Snapshot.read(path)
        (folder / "c.yml").write_text(snapshot.yaml)
        assert min(_time_s(snapshot) for _ in range(5)) < 0.5, path.stem


def _time_s(snapshot):
    """Processor time, so that a busy machine is no failure."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "ft", *snapshot.arguments()]
    assert subprocess.run(command, capture_output=True).returncode == 2
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

"""The run directory: every path in it, who owns it, and in which state it is.

out/
  adapter_config.json  adapter_model.safetensors  tokenizer files    (PEFT's layout; a full
                                          fine-tune has the model's own files here instead)
  resolved.yml  run.json  prompt.json     the spec as run; identity; the prompt layout
  events.jsonl                            every metric, append-only
  checkpoints/step-000120/                whole or not there
  trackers/                               files of TensorBoard, W&B, ... if they are asked for
  merged/                                 the full model
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ft.runtime.durable import is_staging, remove, remove_leftovers, write_json, write_text
from ft.runtime.errors import Problem, UserError

RUN_FILE = "run.json"
LOCK_FILE = ".lock"
RUN_FORMAT = 1
RUN_KEYS = {
    "format": int,
    "finished": bool,
    "config": str,
    "data": dict,
    "probe_input_ids": list,
    "files": list,
}
"""What every run.json holds; train.run writes them."""


class RunDirectory:
    """Paths and state of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.resolved_spec = path / "resolved.yml"
        self.run_file = path / RUN_FILE
        self.prompt_file = path / "prompt.json"
        self.events = path / "events.jsonl"
        self.checkpoints = path / "checkpoints"
        self.merged = path / "merged"
        self.evaluation = path / "evaluation.json"
        self.trackers = path / "trackers"

    @property
    def state(self) -> Literal["empty", "unfinished", "finished", "foreign"]:
        """``foreign``: there are files that ``ft`` did not make, and none that says it is a run."""
        if self.run_file.is_file():
            return "finished" if self.read_run()["finished"] else "unfinished"
        if not self.path.exists():
            return "empty"
        if not self.path.is_dir():
            return "foreign"
        own = {path.name for path in self._own_paths()} | {LOCK_FILE}
        others = (path.name for path in self.path.iterdir())
        return "foreign" if any(n not in own and not is_staging(n) for n in others) else "empty"

    def _own_paths(self) -> list[Path]:
        """What every run writes, final weights aside."""
        return [
            self.resolved_spec,
            self.prompt_file,
            self.events,
            self.checkpoints,
            self.merged,
            self.evaluation,
            self.trackers,
        ]

    def read_run(self) -> dict[str, Any]:
        """The identity of the run, as run.json holds it.

        Raises:
            UserError: there is no run here, or its run.json is broken.
        """
        try:
            run = json.loads(self.run_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            what = "is no run of ft: it has no run.json" if self.path.is_dir() else "no such folder"
            raise UserError(
                Problem(what, str(self.path), fix="`ft train CONFIG` makes a run")
            ) from None
        except OSError as error:
            raise UserError(
                Problem(f"can't be read: {error.strerror}", str(self.run_file))
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(self._broken(str(error))) from None
        if isinstance(run, dict) and run.get("format", RUN_FORMAT) != RUN_FORMAT:
            what = f"is of format {run['format']!r}, and this ft reads {RUN_FORMAT}"
            fix = "use the ft that trained it, or train it again"
            raise UserError(Problem(what, str(self.run_file), fix=fix))
        if fault := _fault_of_run(run):
            raise UserError(self._broken(fault))
        identity: dict[str, Any] = run
        return identity

    def _broken(self, how: str) -> Problem:
        fix = "take it from a copy of the run; or train anew with --overwrite"
        return Problem(f"is broken: {how}", str(self.run_file), fix=fix)

    def write_run(self, run: dict[str, Any]) -> None:
        """Writes run.json, whole or not at all."""
        write_json(self.run_file, run)

    def write_resolved_spec(self, text: str) -> None:
        """Writes resolved.yml, whole or not at all."""
        write_text(self.resolved_spec, text)

    def clear(self) -> None:
        """Removes what a former run left here, and nothing that ``ft`` did not make."""
        try:
            published = self.read_run()["files"] if self.run_file.is_file() else []
        except UserError:  # broken: what it published is not known, and is written over
            published = []
        names = [name for name in published if Path(name).name == name and name != ".."]
        for path in (*self._own_paths(), *(self.path / name for name in names)):
            remove(path)
        self.run_file.unlink(missing_ok=True)

    def _require_no_links(self) -> None:
        """A folder from elsewhere may hold links by which a run would write over other files."""
        for path in (*self._own_paths(), self.run_file, self.path / LOCK_FILE):
            if path.is_symlink():
                fix = (
                    "remove the link; to write to another disk, set --output-dir to a folder there"
                )
                raise UserError(
                    Problem("is a link, which a run does not follow", str(path), fix=fix)
                )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the directory for this process; the kernel lets go when the process dies.

        Raises:
            UserError: another process holds it, it can't be written, it has files that are not
                from ft, or what a run writes leads elsewhere.
        """
        self._require_no_links()
        if self.state == "foreign":
            what = "has files in it that are not from ft" if self.path.is_dir() else "is a file"
            raise UserError(Problem(what, str(self.path), fix="set another --output-dir"))
        lock = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK_FILE).open("a+", encoding="utf-8")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert lock is not None
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise UserError(
                Problem(
                    f"is in use by {holder}",
                    str(self.path),
                    fix="wait for it, or set another --output-dir",
                )
            ) from None
        except OSError as error:
            raise UserError(
                Problem(
                    f"cannot be written: {error.strerror}",
                    str(self.path),
                    fix="set another --output-dir",
                )
            ) from None
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {os.uname().nodename}")
            lock.flush()
            for folder in (self.path, self.checkpoints):
                if folder.is_dir():
                    remove_leftovers(folder)
            yield
        finally:
            lock.close()


def _fault_of_run(run: Any) -> str:
    """What is wrong with what run.json holds; empty if nothing."""
    if not isinstance(run, dict):
        return "it holds no JSON object"
    for key, kind in RUN_KEYS.items():
        if key not in run:
            return f"it lacks {key!r}"
        if not isinstance(run[key], kind):
            return f"{key!r} is {type(run[key]).__name__}"
    if not isinstance(run["data"].get("fingerprint"), str):
        return "it lacks the data's fingerprint"
    if not all(map(_is_tokens, run["probe_input_ids"])):
        return "'probe_input_ids' holds something else than tokens"
    if not all(isinstance(name, str) for name in run["files"]):
        return "'files' holds something else than names"
    return ""


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, int) and each >= 0 for each in value)


def find_newest_run(below: Path, max_depth: int = 3) -> RunDirectory:
    """The finished run below a folder (or the folder itself) that was written last.

    Raises:
        UserError: there is none.
    """
    patterns = ["/".join(["*"] * depth + [RUN_FILE]) for depth in range(max_depth + 1)]
    files = [path for pattern in patterns for path in below.glob(pattern)]
    newest_first = sorted(files, key=lambda path: -path.stat().st_mtime)
    for file in newest_first:
        run = RunDirectory(file.parent)
        try:
            if run.state == "finished":
                return run
        except UserError:  # a broken one is told where it is named
            continue
    what = "no finished run here or below" if files else "no run found here or below"
    raise UserError(Problem(what, str(below), fix="name one: ft infer out/ --prompt ..."))

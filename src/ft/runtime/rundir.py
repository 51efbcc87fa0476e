"""The run directory: every path in it, who owns it, and in which state it is.

out/
  adapter_config.json  adapter_model.safetensors  tokenizer files    (PEFT's layout; a full
                                          fine-tune has the model's own files here instead)
  resolved.yml  run.json  prompt.json     the spec as run; identity; the prompt layout
  events.jsonl                            every metric, append-only
  checkpoints/step-000120/                whole or not there
  merged/                                 the full model
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ft.runtime.durable import remove_leftovers, write_json, write_text
from ft.runtime.errors import Problem, UserError

RUN_FILE = "run.json"


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

    @property
    def state(self) -> Literal["empty", "unfinished", "finished", "foreign"]:
        """``foreign``: there are files, but none that says that ``ft`` made them."""
        if self.run_file.exists():
            return "finished" if self.read_run().get("finished") else "unfinished"
        if self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
            return "foreign"
        return "empty"

    def read_run(self) -> dict[str, Any]:
        """The identity of the run, as run.json holds it.

        Raises:
            UserError: there is no run here, or its run.json is broken.
        """
        try:
            run = json.loads(self.run_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                Problem(
                    "is no run of ft: it has no run.json",
                    str(self.path),
                    fix="`ft train CONFIG` makes one",
                )
            ) from None
        except json.JSONDecodeError as error:
            raise UserError(Problem(f"is broken: {error}", str(self.run_file))) from None
        if not isinstance(run, dict):
            raise UserError(Problem("is broken: not a JSON object", str(self.run_file)))
        return run

    def write_run(self, run: dict[str, Any]) -> None:
        """Writes run.json, whole or not at all."""
        write_json(self.run_file, run)

    def write_resolved_spec(self, text: str) -> None:
        """Writes resolved.yml, whole or not at all."""
        write_text(self.resolved_spec, text)

    def clear(self) -> None:
        """Removes what a former run left here, and nothing that ``ft`` did not make."""
        files = (self.resolved_spec, self.prompt_file, self.events, self.evaluation)
        folders = (self.checkpoints, self.merged)
        for path in (
            *files,
            *folders,
            *self.path.glob("adapter_*"),
            *self.path.glob("model*.safetensors*"),
        ):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(
                missing_ok=True
            )
        self.run_file.unlink(missing_ok=True)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the directory for this process; the kernel lets go when the process dies.

        Raises:
            UserError: another process trains here, or the directory can't be written.
        """
        lock = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
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
            remove_leftovers(self.path)
            yield
        finally:
            lock.close()


def find_newest_run(below: Path, max_depth: int = 3) -> RunDirectory:
    """The run below a folder (or the folder itself) that was written last.

    Raises:
        UserError: there is none.
    """
    patterns = ["/".join(["*"] * depth + [RUN_FILE]) for depth in range(max_depth + 1)]
    runs = [path for pattern in patterns for path in below.glob(pattern)]
    if not runs:
        raise UserError(
            Problem(
                "no run found here or below", str(below), fix="name one: ft infer out/ --prompt ..."
            )
        )
    return RunDirectory(max(runs, key=lambda path: path.stat().st_mtime).parent)

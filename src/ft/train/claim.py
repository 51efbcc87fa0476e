"""The front of `ft train`: whose directory is it, and is the run in it the one that is asked for?

All of it happens before anything heavy is imported, so that a second run in the same directory, a
finished one or a changed config is told in a moment.

A run resumes only if nothing that shapes its result has changed. Keys that only say how often to
report, evaluate or save, and where, are free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.runtime import Problem, RunDirectory, UserError, process_rank
from ft.spec import LoadedSpec, RunSpec, flat_keys, load_spec

FREE_KEYS = frozenset(
    {
        "output_dir",
        "logging_steps",
        "save_steps",
        "saves_per_epoch",
        "save_strategy",
        "save_total_limit",
        "eval_steps",
        "evals_per_epoch",
        "eval_strategy",
        "eval_batch_size",
        "eval_sample_packing",
        "early_stopping_patience",
        "max_drop",
        "dataset_prepared_path",
        "dataset_num_proc",
    }
)


@dataclass(frozen=True)
class ClaimedRun:
    """A directory that this process holds, and the spec to train in it."""

    directory: RunDirectory
    spec: RunSpec
    """With local paths made absolute."""
    config: Path
    overwrites: bool
    """A run that is there gives way, once the new one has its data and its model."""

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.overwrites and self.directory.state == "finished"


@contextmanager
def claim_run(loaded: LoadedSpec, *, overwrite: bool) -> Iterator[ClaimedRun]:
    """Holds the spec's output directory for the length of the block.

    Of several processes of one run, the first one holds it for all.

    Args:
        loaded: The spec and the file that it came from.
        overwrite: Train anew where a run is already.

    Raises:
        UserError: another process holds it; there are files that are not from ft; the run in it has
            another config.
    """
    spec = located_spec(loaded)
    directory = RunDirectory(Path(spec.output.output_dir))
    with directory.claimed() if process_rank() == 0 else nullcontext():
        if not overwrite and directory.state != "empty":
            problems = identity_problems(directory, spec)
            if problems:
                raise UserError(*problems)
        yield ClaimedRun(directory, spec, loaded.path, overwrite)


def located_spec(loaded: LoadedSpec) -> RunSpec:
    """The spec with local paths made absolute, so that it means the same from any folder.

    A local path is looked up in the working directory, then beside the YAML file.
    """
    folders = (Path.cwd(), loaded.path.parent)
    spec = loaded.spec
    sets = {
        name: tuple(
            entry.model_copy(update={"path": _located(entry.path, folders)})
            for entry in getattr(spec.data, name)
        )
        for name in ("datasets", "test_datasets")
    }
    model = {
        name: _located(value, folders)
        for name in ("base_model", "tokenizer_config")
        if (value := getattr(spec.model, name)) is not None
    }
    adapter = {}
    if spec.adapter.lora_model_dir is not None:
        adapter["lora_model_dir"] = _located(spec.adapter.lora_model_dir, folders)
    output_dir = str(Path(spec.output.output_dir).expanduser().absolute())
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update=sets),
            "model": spec.model.model_copy(update=model),
            "adapter": spec.adapter.model_copy(update=adapter),
            "output": spec.output.model_copy(update={"output_dir": output_dir}),
        }
    )


def _located(name: str, folders: tuple[Path, ...]) -> str:
    for folder in folders:
        path = folder / Path(name).expanduser()
        if path.exists():
            return str(path.resolve())
    return name


def identity_problems(run: RunDirectory, spec: RunSpec) -> list[Problem]:
    """One problem for each key whose value differs from the run's own."""
    before = flat_keys(load_spec(run.resolved_spec).spec)
    now = json.loads(spec.model_dump_json())
    now = {key: value for section in now.values() for key, value in section.items()}
    changed = [key for key in now if key not in FREE_KEYS and before.get(key) != now[key]]
    return [
        Problem(
            f"{key} was {_short(before.get(key))} when this run began, now {_short(now[key])}",
            str(run.path),
            fix=_FIX if key == changed[-1] else "",
        )
        for key in changed
    ]


_FIX = "set it back, set another --output-dir, or start anew with --overwrite"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."

"""The front of `ft train`: whose directory is it, and is the run in it the one that is asked for?

All of it happens before anything heavy is imported, so that a second run in the same directory, a
finished one or a changed config is told in a moment.

A run resumes only if nothing that shapes its result has changed, or the user says that it may
(identity.py).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ft.runtime import RunDirectory, process_rank
from ft.spec import LoadedSpec, RunSpec
from ft.train.identity import differences, require_known, require_same_run


@dataclass(frozen=True)
class ClaimedRun:
    """A directory that this process holds, and the spec to train in it."""

    directory: RunDirectory
    spec: RunSpec
    """With local paths made absolute."""
    config: Path
    overwrites: bool
    """A run that is there gives way, once the new one has its data and its model."""
    overrides: frozenset[str]
    """What may differ from the run that is there."""
    started_s: float
    """When the command began, on the clock of ``time.monotonic``."""

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.overwrites and self.directory.state == "finished"


@contextmanager
def claim_run(
    loaded: LoadedSpec, *, overwrite: bool, overrides: Collection[str] = ()
) -> Iterator[ClaimedRun]:
    """Holds the spec's output directory for the length of the block.

    Of several processes of one run, the first one holds it for all.

    Args:
        loaded: The spec and the file that it came from.
        overwrite: Train anew where a run is already.
        overrides: Keys whose values may differ from those that the run began with.

    Raises:
        UserError: another process holds it; there are files that are not from ft; the run in it has
            another config.
    """
    started_s = time.monotonic()
    spec = located_spec(loaded)
    require_known(overrides, spec)
    directory = RunDirectory(Path(spec.output.output_dir))
    with directory.claimed() if process_rank() == 0 else nullcontext():
        if not overwrite and directory.state != "empty":
            require_same_run(directory, differences(directory, spec), overrides)
        yield ClaimedRun(directory, spec, loaded.path, overwrite, frozenset(overrides), started_s)


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

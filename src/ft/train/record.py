"""What a run writes of itself: at its beginning what it is, at its end its weights and result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft.data.feed import TrainingData
from ft.model import LoadedModel, apply_patches
from ft.runtime import RunDirectory, describe_environment
from ft.runtime.durable import STAGING_PREFIX, staged_folder, write_json
from ft.runtime.rundir import RUN_FORMAT
from ft.spec import dump_spec
from ft.train.checkpoint import TrainerState
from ft.train.claim import ClaimedRun
from ft.train.identity import DATA, NUM_PROCESSES, Difference, num_processes, require_same_run

NUM_PROBES, PROBE_TOKENS = 8, 128


def describe_run(claimed: ClaimedRun, data: TrainingData, model: LoadedModel) -> dict[str, Any]:
    """What run.json says of the run before its first step."""
    return {
        "format": RUN_FORMAT,
        "finished": False,
        "files": [],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": str(claimed.config.resolve()),
        "base_model": claimed.spec.model.base_model,
        "base_revision": model.base_revision,
        NUM_PROCESSES: num_processes(),
        "data": {
            "fingerprint": data.fingerprint(),
            "num_train_records": data.num_train_records,
            "num_heldout_records": len(data.heldout) if data.heldout is not None else 0,
        },
        "probe_input_ids": _probes(data),
        "precision": model.precision.compute,
        "attention": model.attention.implementation,
        "environment": describe_environment() | {"hardware": model.hardware.name},
        "patches": apply_patches(),
    }


def _in_words(data: dict[str, Any]) -> str:
    count = data["num_train_records"]
    size = "a stream" if count is None else f"{count:,} records"
    return f"{size}, sha256 {data['fingerprint'][:8]}..."


def _probes(data: TrainingData) -> list[list[int]]:
    """A few records' token ids, for `ft merge` to compare the models on without the data."""
    rows = data.heldout if data.heldout is not None and len(data.heldout) else data.samples
    return [rows[i].input_ids[:PROBE_TOKENS].tolist() for i in range(min(NUM_PROBES, len(rows)))]


def begin_run(claimed: ClaimedRun, data: TrainingData, identity: dict[str, Any]) -> None:
    """Writes what the run is, over a former one if that is asked for.

    Raises:
        UserError: the run that is there goes on, but its data changed.
    """
    run = claimed.directory
    if claimed.overwrites:
        run.clear()
    elif run.state == "unfinished":
        then, now = run.read_run()["data"], identity["data"]
        if then["fingerprint"] != now["fingerprint"]:
            changed = Difference(DATA, _in_words(then), _in_words(now))
            require_same_run(run, [changed], claimed.overrides)
    run.write_resolved_spec(dump_spec(claimed.spec))
    layouts = [layout.to_json() for layout in data.layouts]
    write_json(run.prompt_file, {"format": 1, "layouts": layouts})
    run.write_run(identity)


def finish_run(
    run: RunDirectory,
    model: LoadedModel,
    identity: dict[str, Any],
    state: TrainerState,
    *,
    total_time_s: float,
) -> dict[str, Any]:
    """Moves the final weights into the run directory and marks the run as finished.

    Returns:
        run.json's ``result``.
    """
    result = {
        "num_steps": state.step,
        "num_tokens": state.num_tokens_seen,
        "num_skipped_steps": state.num_skipped_steps,
        "best_loss": state.best_loss,
        "best_step": state.best_step,
        "is_stopped_early": state.is_stopped_early,
        "train_time_s": round(state.train_time_s, 2),
        "total_time_s": round(total_time_s, 2),
    }
    files = _publish(run.path, [model.save_weights, model.tokenizer.tokenizer.save_pretrained])
    run.write_run({**identity, "finished": True, "files": files, "result": result})
    return result


def _publish(folder: Path, writers: list[Callable[[Path], Any]]) -> list[str]:
    """Writes files aside, flushes them, and moves each into the folder; gives their names."""
    final = folder / f"{STAGING_PREFIX}final-{os.getpid()}"
    with staged_folder(final) as staging:
        for write in writers:
            write(staging)
    names = sorted(path.name for path in final.iterdir())
    for name in names:
        (final / name).replace(folder / name)
    final.rmdir()
    return names

"""accelerate's trackers, each with what this project's keys say and with what it would send cut.

W&B, MLflow and their kin like to send the command line, the host, git's state, the console, and
source code. Whatever of that can be switched off is.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.runtime.durable import write_json
from ft.spec.runspec import TrackerSpec
from ft.train.tracker_thread import Tracker

DEFAULT_PROJECT = "ft"
RUN = "run"


class RunIds:
    """What a run is called at its trackers, kept in a file so that a resumed run goes on there."""

    def __init__(self, file: Path) -> None:
        """Reads the file, or begins it with an id that no other run has."""
        self._file = file
        self._lock = threading.Lock()
        self._ids: dict[str, str] = {}
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        self.is_resumed = isinstance(found, dict) and isinstance(found.get(RUN), str)
        """The run was begun before."""
        if self.is_resumed:
            self._ids = found
        else:
            self.keep(RUN, uuid.uuid4().hex)

    def __getitem__(self, name: str) -> str:
        return self._ids[name]

    def get(self, name: str) -> str | None:
        """What a tracker called the run, if it did."""
        return self._ids.get(name)

    def keep(self, name: str, value: str) -> None:
        """Writes down what a tracker calls the run; from any thread."""
        with self._lock:
            self._ids[name] = value
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, self._ids)


@dataclass(frozen=True)
class Place:
    """Where a run is tracked, and as what.

    Attributes:
        spec: The config's keys.
        folder: Where trackers may keep files.
        run_name: The name of the run's folder.
        ids: What this run is called at its trackers.
    """

    spec: TrackerSpec
    folder: Path
    run_name: str
    ids: RunIds

    @property
    def unique_name(self) -> str:
        """A name that no other run has."""
        return f"{self.run_name}-{self.ids[RUN][:6]}"


def _tensorboard(place: Place) -> Tracker:
    from accelerate.tracking import TensorBoardTracker

    return _started(TensorBoardTracker("tensorboard", logging_dir=str(place.folder)))


def _wandb(place: Place) -> Tracker:
    import wandb
    from accelerate.tracking import WandBTracker

    spec = place.spec
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    mode = spec.wandb_mode or os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    if mode in ("online", "shared") and not wandb.api.api_key:  # it would ask at the terminal
        raise RuntimeError("not logged in: run `wandb login`, or set WANDB_API_KEY")
    tracker = WandBTracker(
        spec.wandb_project or DEFAULT_PROJECT,
        entity=spec.wandb_entity,
        name=spec.wandb_name or place.run_name,
        id=spec.wandb_run_id or place.ids[RUN],
        resume="allow",
        mode=mode,
        dir=str(place.folder),
        settings=settings,
    )
    return _started(tracker)


def _mlflow(place: Place) -> Tracker:
    import mlflow
    from accelerate.tracking import MLflowTracker

    spec = place.spec
    if spec.mlflow_tracking_uri:
        mlflow.set_tracking_uri(spec.mlflow_tracking_uri)
    tracker = MLflowTracker(
        spec.mlflow_experiment_name or DEFAULT_PROJECT,
        run_id=place.ids.get("mlflow"),
        run_name=spec.mlflow_run_name or place.run_name,
        tags={"mlflow.source.name": "ft train"},  # else the path of the program
    )
    started = _started(tracker)
    place.ids.keep("mlflow", tracker.tracker.info.run_id)
    return started


def _trackio(place: Place) -> Tracker:
    from accelerate.tracking import TrackioTracker

    spec = place.spec
    tracker = TrackioTracker(
        spec.trackio_project_name or DEFAULT_PROJECT,
        name=spec.trackio_run_name or place.unique_name,
        space_id=spec.trackio_space_id,
        resume="allow" if place.ids.is_resumed else "never",
        embed=False,
    )
    return _started(tracker)


def _comet(place: Place) -> Tracker:
    import comet_ml
    from accelerate.tracking import CometMLTracker

    spec = place.spec
    what_is_sent = comet_ml.ExperimentConfig(
        name=place.run_name,
        log_code=False,
        log_graph=False,
        log_git_metadata=False,
        log_git_patch=False,
        log_env_details=False,
        auto_param_logging=False,
        auto_metric_logging=False,
        auto_output_logging=False,
        parse_args=False,
        offline_directory=str(place.folder / "comet"),
    )
    tracker = CometMLTracker(
        spec.comet_project_name or DEFAULT_PROJECT,
        workspace=spec.comet_workspace,
        experiment_key=spec.comet_experiment_key or place.ids[RUN],
        mode=spec.comet_mode or "get_or_create",
        online=spec.comet_online,
        experiment_config=what_is_sent,
    )
    return _started(tracker)


def _aim(place: Place) -> Tracker:
    from accelerate.tracking import AimTracker

    tracker = AimTracker(
        place.unique_name,
        logging_dir=str(place.folder),
        run_hash=place.ids.get("aim"),
        experiment=DEFAULT_PROJECT,
        system_tracking_interval=None,
        capture_terminal_logs=False,
    )
    started = _started(tracker)
    place.ids.keep("aim", tracker.tracker.hash)
    return started


def _swanlab(place: Place) -> Tracker:
    import swanlab
    from accelerate.tracking import SwanLabTracker

    spec = place.spec
    settings = swanlab.Settings(
        interactive=False,
        terminal=swanlab.Settings.Terminal(proxy_type="none"),
        probe=swanlab.Settings.Probe(
            hardware=False,
            runtime=False,
            requirements=False,
            git=False,
            swanlab=False,
            monitor=False,
        ),
    )
    tracker = SwanLabTracker(
        spec.swanlab_project or DEFAULT_PROJECT,
        name=spec.swanlab_experiment_name or place.run_name,
        description=spec.swanlab_description,
        workspace=spec.swanlab_workspace,
        mode=spec.swanlab_mode,
        id=place.ids[RUN][:21],
        resume="allow",
        log_dir=str(place.folder / "swanlog"),
        settings=settings,
    )
    return _started(tracker)


def _clearml(place: Place) -> Tracker:
    from accelerate.tracking import ClearMLTracker

    tracker = ClearMLTracker(
        project_name=DEFAULT_PROJECT,
        task_name=place.unique_name,
        continue_last_task=place.ids.get("clearml") or False,
        auto_connect_arg_parser=False,
        auto_connect_frameworks=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )
    started = _started(tracker)
    place.ids.keep("clearml", tracker.tracker.id)
    return started


def _dvclive(place: Place) -> Tracker:
    from accelerate.tracking import DVCLiveTracker

    folder = str(place.folder / "dvclive")
    tracker = DVCLiveTracker(
        dir=folder,
        resume=place.ids.is_resumed,
        save_dvc_exp=False,
        dvcyaml=None,
        monitor_system=False,
    )
    return _started(tracker)


def _started(tracker: Any) -> Tracker:
    tracker.start()
    started: Tracker = tracker
    return started


BUILDERS: Mapping[str, Callable[[Place], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
    "comet_ml": _comet,
    "aim": _aim,
    "swanlab": _swanlab,
    "clearml": _clearml,
    "dvclive": _dvclive,
}
"""By name, which is that of the package as well."""

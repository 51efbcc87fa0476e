"""Where a run's metrics are shown besides events.jsonl; nowhere unless a key here asks for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ft.spec.sections.section import Section

TrackerName = Literal[
    "tensorboard",
    "wandb",
    "mlflow",
    "trackio",
    "comet_ml",
    "aim",
    "swanlab",
    "clearml",
    "dvclive",
]


def _as_names(value: Any) -> Any:
    """`none`, one name, or a list of them."""
    names = (value,) if isinstance(value, str) else value
    return tuple(names) if names != ("none",) and isinstance(names, list | tuple) else ()


Trackers = Annotated[
    tuple[TrackerName, ...],
    BeforeValidator(_as_names, json_schema_input_type=tuple[TrackerName | Literal["none"], ...]),
]


_SWITCHES: dict[TrackerName, tuple[str, str | None]] = {
    "tensorboard": ("use_tensorboard", None),
    "wandb": ("use_wandb", "wandb_project"),
    "mlflow": ("use_mlflow", "mlflow_experiment_name"),
    "trackio": ("use_trackio", "trackio_project_name"),
    "comet_ml": ("use_comet", "comet_project_name"),
    "swanlab": ("use_swanlab", "swanlab_project"),
}
"""The key that switches a tracker on or off, and one that asks for it as well, as in axolotl."""


class TrackerSpec(Section):
    """Where the metrics go besides events.jsonl. A tracker that fails is told of and left out."""

    report_to: Trackers = Field(
        (),
        description="Trackers to log to, by name; one with a project of its own below is on too.",
    )
    use_tensorboard: bool | None = Field(
        None, description="Log to TensorBoard: trackers/tensorboard in the run's folder."
    )
    use_wandb: bool | None = Field(
        None, description="Log to W&B; default: if wandb_project is given."
    )
    wandb_project: str | None = Field(None, description="W&B project.")
    wandb_entity: str | None = Field(None, description="W&B user or team.")
    wandb_name: str | None = Field(None, description="W&B run name; default the run's folder.")
    wandb_run_id: str | None = Field(
        None, description="W&B run id; default one of the run's own, so that a resumed run goes on."
    )
    wandb_mode: Literal["online", "offline", "disabled", "shared"] | None = Field(
        None, description="W&B mode: offline keeps everything in trackers/ for `wandb sync`."
    )
    use_mlflow: bool | None = Field(
        None, description="Log to MLflow; default: if mlflow_experiment_name is given."
    )
    mlflow_tracking_uri: str | None = Field(
        None, description="MLflow server or store; default $MLFLOW_TRACKING_URI, or MLflow's own."
    )
    mlflow_experiment_name: str | None = Field(None, description="MLflow experiment.")
    mlflow_run_name: str | None = Field(
        None, description="MLflow run name; default the run's folder."
    )
    use_trackio: bool | None = Field(
        None, description="Log to Trackio; default: if trackio_project_name is given."
    )
    trackio_project_name: str | None = Field(None, description="Trackio project.")
    trackio_run_name: str | None = Field(
        None, description="Trackio run name; default the run's folder and a few letters."
    )
    trackio_space_id: str | None = Field(
        None, description="Hub space that shows it; default: on this machine only."
    )
    use_comet: bool | None = Field(
        None, description="Log to Comet; default: if comet_project_name is given."
    )
    comet_project_name: str | None = Field(None, description="Comet project.")
    comet_workspace: str | None = Field(None, description="Comet workspace.")
    comet_experiment_key: str | None = Field(
        None, description="Comet experiment key; default one of the run's own."
    )
    comet_mode: Literal["get_or_create", "get", "create"] | None = Field(
        None, description="Comet: go on with an experiment, or begin one."
    )
    comet_online: bool | None = Field(None, description="Comet: false logs to files.")
    use_swanlab: bool | None = Field(
        None, description="Log to SwanLab; default: if swanlab_project is given."
    )
    swanlab_project: str | None = Field(None, description="SwanLab project.")
    swanlab_experiment_name: str | None = Field(
        None, description="SwanLab experiment name; default the run's folder."
    )
    swanlab_description: str | None = Field(None, description="SwanLab description.")
    swanlab_mode: Literal["cloud", "local", "offline", "disabled"] | None = Field(
        None, description="SwanLab mode."
    )
    swanlab_workspace: str | None = Field(None, description="SwanLab workspace.")

    @property
    def asked(self) -> tuple[TrackerName, ...]:
        """The trackers that are on; a `use_` key that is false switches one off."""
        asked: dict[TrackerName, bool] = dict.fromkeys(self.report_to, True)
        for name, (switch, project) in _SWITCHES.items():
            is_on = getattr(self, switch)
            if is_on is not None:
                asked[name] = is_on
            elif project is not None and getattr(self, project):
                asked[name] = True
        if self.wandb_mode == "disabled":
            asked["wandb"] = False
        return tuple(name for name, is_asked in asked.items() if is_asked)

    @property
    def idle(self) -> dict[str, list[str]]:
        """The key that would switch a tracker on -> keys of that tracker, which nothing asks for.

        One that was switched off by name is meant to be off, whatever its other keys are.
        """
        idle = {}
        for name, (switch, _) in _SWITCHES.items():
            is_off = getattr(self, switch) is not None or self.wandb_mode == "disabled"
            prefix = f"{switch.removeprefix('use_')}_"
            given = [key for key in self.model_fields_set if key.startswith(prefix)]
            given = [key for key in given if getattr(self, key)]
            if given and name not in self.asked and not is_off:
                idle[switch] = sorted(given)
        return idle

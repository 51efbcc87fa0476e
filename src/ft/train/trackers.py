"""Trackers of a run, through accelerate: TensorBoard, W&B, MLflow, Trackio and others.

    events of the loop --metrics_of--> numbers --TrackerThread--> accelerate's tracker

None is on unless the YAML asks for it. One that is not installed, is not logged in, fails or hangs
is told of once and left out; the run goes on. What they are sent is the metrics and the config
without its secrets and with files by their names alone; the environment is not sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ft.spec import RunSpec, flat_keys
from ft.spec.runspec import TrackerSpec
from ft.spec.secrets import hide
from ft.train.tracker_builders import BUILDERS, Place, RunIds
from ft.train.tracker_thread import Tracker, TrackerThread

PATIENCE_S = 60.0
"""So long may a tracker take for one call before it counts as hanging."""
IDS_FILE = "ids.json"
_LONGEST_TEXT = 250
_NAMES_OF_OTHERS = {
    "train/tokens_per_s": "train/tokens_per_second",
    "eval/eval_loss": "eval/loss",
    "eval/eval_time_s": "eval/runtime",
}
"""Metrics that transformers' integrations have too, by the names that they have there."""

Tell = Callable[[str], Any]
"""Told, in a line for the user."""


class RunTrackers:
    """The trackers of one run: hears its events, and tells what becomes of the trackers."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        tell: Tell,
        *,
        builders: Mapping[str, Callable[[Place], Tracker]] = BUILDERS,
        patience_s: float | None = None,
    ) -> None:
        """Begins them in the background.

        Args:
            spec: The run's.
            folder: Where they may keep files: `trackers/` of the run directory.
            tell: Told of what is switched off, and why.
            builders: What makes each of them.
            patience_s: A call that takes longer hangs; default `PATIENCE_S`.
        """
        self._tell = tell
        self._threads: list[TrackerThread] = []
        names = spec.trackers.asked
        if not names:
            return
        run_name = Path(spec.output.output_dir).name
        place = Place(spec.trackers, folder, run_name, RunIds(folder / IDS_FILE))
        config = tracked_config(spec)
        for name in names:
            if find_spec(name) is None:
                tell(f"{name} is left out: it is not installed; pip install 'ft[{name}]'")
                continue
            begin = _beginning(builders[name], place, config)
            self._threads.append(TrackerThread(name, begin, patience_s=patience_s or PATIENCE_S))
        if self._threads:
            tell(f"tracking with {', '.join(each.name for each in self._threads)}")

    def hear(self, event: Mapping[str, Any]) -> None:
        """Logs what an event of the run says in numbers."""
        for thread in self._threads:
            if values := metrics_of(event):
                thread.log(values, int(event["step"]))
            if trouble := thread.trouble():
                self._switched_off(thread, trouble)

    def close(self) -> None:
        """Waits until they have everything, within their patience."""
        for thread in self._threads:
            if trouble := thread.close():
                self._switched_off(thread, trouble)
        self._threads = []

    def _switched_off(self, thread: TrackerThread, trouble: str) -> None:
        why = hide(trouble)[:_LONGEST_TEXT]
        self._tell(f"{thread.name} is switched off, the run goes on without it: {why}")


def _beginning(
    build: Callable[[Place], Tracker], place: Place, config: dict[str, Any]
) -> Callable[[], Tracker]:
    def begin() -> Tracker:
        tracker = build(place)
        if not place.ids.is_resumed:
            tracker.store_init_configuration(config)
        return tracker

    return begin


def metrics_of(event: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a step or an evaluation, by the names that trackers know them by."""
    kinds = {"step": "train", "evaluation": "eval"}
    kind = kinds.get(event["event"])
    if kind is None:
        return {}
    values = {
        f"{kind}/{key}": value
        for key, value in event.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and key not in ("time", "step", "num_steps")
    }
    return {_NAMES_OF_OTHERS.get(name, name): value for name, value in values.items()}


def tracked_config(spec: RunSpec) -> dict[str, Any]:
    """The config as trackers get it: flat, without secrets, files by their names alone."""
    own = set(TrackerSpec.model_fields)
    flat = {key: value for key, value in flat_keys(spec).items() if key not in own}
    for name in ("datasets", "test_datasets"):
        entries = getattr(spec.data, name)
        flat[name] = [each.model_dump(mode="json", exclude_defaults=True) for each in entries]
    return {key: _plain(_without_places(value)) for key, value in flat.items() if value is not None}


def _without_places(value: Any) -> Any:
    if isinstance(value, str):
        return Path(value).name if os.path.isabs(value) else hide(value)
    if isinstance(value, Mapping):
        pairs = value.items()
        return {key: _without_places(each) for key, each in pairs if each is not None}
    if isinstance(value, list | tuple):
        return [_without_places(each) for each in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."

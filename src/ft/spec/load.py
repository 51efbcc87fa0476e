r"""YAML file + command-line overrides -> RunSpec, or every mistake in them at once.

read_document -> overrides -> old names, states of keys -> contradictions -> pydantic -> RunSpec
                                    \__________ problems, with their places __________/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ft.runtime.errors import Problem, UserError
from ft.spec.document import Document, KeyPath, read_document
from ft.spec.methods import idle_keys
from ft.spec.reading import MAX_PROBLEMS, Reading, place
from ft.spec.runspec import RunSpec, flat_keys
from ft.spec.secrets import hide_secrets


@dataclass(frozen=True)
class LoadedSpec:
    """A RunSpec with what a reader of its file should know."""

    spec: RunSpec
    path: Path
    notices: tuple[str, ...]
    """Old names and keys without effect, to be said once."""
    document: Document
    options: dict[KeyPath, str]
    """The override, as typed, behind each value that came from the command line."""

    def problem(self, key_path: KeyPath, what: str, fix: str = "") -> Problem:
        """A problem placed at the key's line, or at the option that set it."""
        return place(self.document, self.options, key_path, what, fix)


def load_spec(
    path: Path, arguments: Sequence[str] = (), *, for_preview: bool = False
) -> LoadedSpec:
    """Reads a config.

    Args:
        path: The YAML file.
        arguments: Overrides as typed: ``["--learning-rate", "1e-4", "--datasets.0.path=x.jsonl"]``.
        for_preview: It is not to be trained, so it may ask for what can only be looked at.

    Raises:
        UserError: with every problem found, ordered by line.
    """
    try:
        reading, spec = _read(path, arguments, for_preview)
    except UserError as error:
        raise UserError(*_first(tuple(map(hide_secrets, error.problems)))) from None
    notices = [*reading.notices]
    if spec.training.lr_scheduler == "constant" and _warmup_asked(spec):
        notices.append(
            "warmup has no effect with lr_scheduler: constant (constant_with_warmup has it)"
        )
    given = frozenset(key for key, value in reading.values.items() if value is not None)
    if idle := idle_keys(spec.adapter.adapter, given):
        notices.append(f"no effect with adapter: {spec.adapter.adapter}: {', '.join(idle)}")
    for switch, keys in spec.trackers.idle.items():
        notices.append(f"no effect without {switch}: true: {', '.join(keys)}")
    for why, keys in reading.without_effect.items():
        notices.append(f"no effect here: {', '.join(keys)} ({why})")
    return LoadedSpec(spec, path, tuple(notices), reading.document, reading.options)


def _first(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """So many as can be read."""
    if len(problems) <= MAX_PROBLEMS:
        return problems
    rest = Problem(f"and {len(problems) - MAX_PROBLEMS:,} more", problems[-1].where.split(":")[0])
    return (*problems[:MAX_PROBLEMS], rest)


def _read(path: Path, arguments: Sequence[str], for_preview: bool) -> tuple[Reading, RunSpec]:
    reading = Reading(read_document(path))
    reading.command_line.apply(arguments)
    reading.secrets()
    flat = reading.states_of_keys()
    reading.file_names(flat)
    reading.templates(flat)
    reading.contradictions(flat)
    if not for_preview:
        reading.what_is_only_previewed(flat)
    spec = reading.validate(flat)
    if reading.problems or spec is None:
        raise UserError(*sorted(reading.problems, key=_by_place))
    return reading, spec


def _warmup_asked(spec: RunSpec) -> float:
    """Steps or share of the warm-up that the config asks for; 0 = none."""
    return spec.training.warmup_steps or spec.training.warmup_ratio or 0


def dump_spec(spec: RunSpec) -> str:
    """The spec as a YAML file that ``load_spec`` reads back to the same spec."""
    flat = {key: value for key, value in flat_keys(spec).items() if value is not None}
    flat["datasets"] = [_without_nulls(entry) for entry in flat["datasets"]]
    flat["test_datasets"] = [_without_nulls(entry) for entry in flat["test_datasets"]]
    if not flat["test_datasets"]:
        del flat["test_datasets"]
    return yaml.safe_dump(flat, sort_keys=False, allow_unicode=True)


def _without_nulls(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _by_place(problem: Problem) -> tuple[int, int]:
    parts = problem.where.rsplit(":", 2)
    return (int(parts[1]), int(parts[2])) if len(parts) == 3 and parts[1].isdigit() else (0, 0)

"""Run directory, events, environment, errors: what every room stands on; imports nothing heavy."""

from ft.runtime.environment import describe_environment, library_version, process_rank
from ft.runtime.errors import FtError, Interrupted, MachineError, Problem, TrainingError, UserError
from ft.runtime.events import EventLog, OnEvent, read_events
from ft.runtime.rundir import RunDirectory, find_newest_run

__all__ = [
    "EventLog",
    "FtError",
    "Interrupted",
    "MachineError",
    "OnEvent",
    "Problem",
    "RunDirectory",
    "TrainingError",
    "UserError",
    "describe_environment",
    "find_newest_run",
    "library_version",
    "process_rank",
    "read_events",
]

"""What can go wrong, told the way a user needs it.

    FtError
    |-- UserError        exit 2   the YAML, the data or the command line is wrong
    |-- MachineError     exit 3   this machine can't: no memory, no space
    |-- TrainingError    exit 4   training failed: NaN, divergence
    `-- Interrupted      exit 130 / 143   stopped by a signal, after a checkpoint

A ``UserError`` carries every problem that was found, not the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what was got, what would be right, how to fix it."""

    what: str
    """The fault in one line: ``unknown key 'lora_alhpa'``."""
    where: str = ""
    """``sql.yml:12:3``, ``--lora-r``, ``data.jsonl:812``; empty when there is no place."""
    source: str = ""
    """The offending line of the file, as it stands there."""
    fix: str = ""
    """What to type or change; may have several lines."""

    def render(self) -> str:
        """The problem as text, without colour."""
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.source:
            lines.append(f"    {self.source.rstrip()}")
        lines.extend(f"  {line}" for line in self.fix.splitlines())
        return "\n".join(lines)


class FtError(Exception):
    """Everything that ``ft`` reports without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(Problem(p) if isinstance(p, str) else p for p in problems)
        super().__init__("\n".join(problem.render() for problem in self.problems))


class UserError(FtError):
    """The user's input is wrong."""

    exit_code = 2


class MachineError(FtError):
    """The machine can't do it: out of memory, no space left."""

    exit_code = 3


class TrainingError(FtError):
    """Training failed: a loss that is not a number, divergence."""

    exit_code = 4


class Interrupted(FtError):  # noqa: N818 - a stop that was asked for is no error
    """A signal stopped the run after its checkpoint was written."""

    def __init__(self, signal_number: int, *problems: Problem | str) -> None:
        super().__init__(*problems)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """128 + the signal's number, as shells count: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal_number

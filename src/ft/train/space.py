"""Is there room on the disk for what the run will write? Asked before the first step."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.runtime import MachineError, Problem


@dataclass(frozen=True)
class SpaceNeed:
    """What a run writes, in bytes."""

    weights_bytes: int
    """The trained weights, as they are saved."""
    optimizer_bytes: int
    num_checkpoints: int
    """Still to be written."""
    num_existing: int
    keep: int | None

    @property
    def checkpoint_bytes(self) -> int:
        """One checkpoint."""
        return self.weights_bytes + self.optimizer_bytes

    @property
    def least_bytes(self) -> int:
        """One more checkpoint and the final weights: what no setting avoids."""
        return self.checkpoint_bytes + self.weights_bytes

    @property
    def peak_bytes(self) -> int:
        """What is there at most, beyond what is there now.

        An old checkpoint goes once the new one is whole, so there is one more than are kept.
        """
        total = self.num_existing + self.num_checkpoints
        most = total if self.keep is None else min(total, self.keep + 1)
        at_end = total if self.keep is None else min(total, self.keep)
        during = max(most - self.num_existing, 0) * self.checkpoint_bytes
        return max(
            during, max(at_end - self.num_existing, 0) * self.checkpoint_bytes + self.weights_bytes
        )


def check_space(folder: Path, need: SpaceNeed) -> dict[str, Any]:
    """Compares what the run needs with what is free.

    Returns:
        ``needed_bytes``, ``checkpoint_bytes``, ``free_bytes``, ``is_tight``.

    Raises:
        MachineError: not even one checkpoint and the final weights fit.
    """
    free_bytes = shutil.disk_usage(folder).free
    if need.least_bytes > free_bytes:
        raise MachineError(
            Problem(
                f"the disk is too full: a checkpoint takes {in_bytes(need.checkpoint_bytes)} and "
                f"the final weights {in_bytes(need.weights_bytes)}, "
                f"{in_bytes(free_bytes)} are free",
                str(folder),
                fix="free some, or set an --output-dir on another disk",
            )
        )
    return {
        "needed_bytes": need.peak_bytes,
        "checkpoint_bytes": need.checkpoint_bytes,
        "free_bytes": free_bytes,
        "is_tight": need.peak_bytes > free_bytes,
    }


def in_bytes(num_bytes: int) -> str:
    """Bytes as a person reads them: ``1.4 GB``, ``320 kB``."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"

"""What the processes of one run decide together, so that all of them leave the loop at one step."""

from __future__ import annotations

import torch
from accelerate import Accelerator


class Agreement:
    """Counts the processes that say yes; all of them ask the same questions in the same order."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def counts(self, *flags: bool) -> list[int]:
        """How many of the processes say yes to each; one exchange for all of them."""
        if self._accelerator.num_processes == 1:
            return [int(flag) for flag in flags]
        own = torch.tensor(flags, dtype=torch.float32, device=self._accelerator.device)
        total = self._accelerator.reduce(own, reduction="sum")
        return [int(count) for count in total.tolist()]

    def of_main(self, number: int) -> int:
        """The number that the main process gives; the others' own count for nothing."""
        is_main = self._accelerator.is_main_process
        if self._accelerator.num_processes == 1:
            return number
        own = torch.tensor([number if is_main else 0], device=self._accelerator.device)
        return int(self._accelerator.reduce(own, reduction="sum").item())

    def any(self, flag: bool) -> bool:
        """Whether one of them says yes."""
        return self.counts(flag)[0] > 0

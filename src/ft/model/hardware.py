"""What this process computes on, as a plain value.

Everything that decides (precision, attention, plan) takes a ``Hardware``, so that each choice can
be tested on any machine with made-up values.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

AMPERE = (8, 0)
"""First CUDA generation with bfloat16, TensorFloat-32 and the flash-attention kernels."""


@dataclass(frozen=True)
class Hardware:
    """One device: what it is and what it can do."""

    kind: Literal["cuda", "mps", "cpu"]
    name: str = ""
    capability: tuple[int, int] | None = None
    """CUDA compute capability, ``(9, 0)``; None elsewhere."""
    memory_bytes: int = 0
    """Memory of the card; of the machine where there is no card."""
    supports_bf16: bool = False
    has_flash_attn: bool = False
    """flash-attn is installed and loads."""
    has_varlen: bool = False
    """torch has variable-length attention (2.10 and later)."""

    @property
    def is_ampere_or_later(self) -> bool:
        """A CUDA card of compute capability 8.0 or more."""
        return self.kind == "cuda" and self.capability is not None and self.capability >= AMPERE


def probe_hardware() -> Hardware:
    """The device of this process: CUDA's current device, else MPS, else the CPU."""
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(torch.cuda.current_device())
        capability = (card.major, card.minor)
        return Hardware(
            kind="cuda",
            name=card.name,
            capability=capability,
            memory_bytes=card.total_memory,
            supports_bf16=capability >= AMPERE,
            has_flash_attn=_loads("flash_attn"),
            has_varlen=_loads("torch.nn.attention.varlen"),
        )
    if torch.backends.mps.is_available():
        memory = torch.mps.recommended_max_memory()
        return Hardware(kind="mps", name=platform.machine(), memory_bytes=memory)
    return Hardware(
        kind="cpu",
        name=_cpu_name(Path("/proc/cpuinfo")),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        supports_bf16=True,
    )


def available_memory_bytes(hardware: Hardware) -> int:
    """What this process may still allocate on its device, now.

    On CUDA what is free on the card, within torch's own limit for the process; on a CPU what the
    machine has, or what is left of a limit of addresses (``ulimit -v``) or of the control group.
    """
    if hardware.kind == "cuda":
        free, total = torch.cuda.mem_get_info()
        share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda: 1.0)()
        held = torch.cuda.memory_reserved()
        return int(min(free + held, total * share) - torch.cuda.memory_allocated())
    limits = [hardware.memory_bytes, _left_of_addresses(), _left_of_group(Path("/sys/fs/cgroup"))]
    return min(limit for limit in limits if limit is not None)


def _left_of_addresses() -> int | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.is_file() else 0
    return max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0)


def _left_of_group(folder: Path) -> int | None:
    limit, used, parts = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return None
    return max(int(limit.read_text()) - int(used.read_text()) + _cached_files(parts), 0)


def _cached_files(parts: Path) -> int:
    """Bytes of files that were read, weights among them: counted as used, given back when asked."""
    text = parts.read_text() if parts.is_file() else ""
    return sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", text, re.MULTILINE)))


def _cpu_name(cpuinfo: Path) -> str:
    """The processor's model name, where Linux tells it, and the cores: ``AMD EPYC, 2 cores``."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    match = re.search(r"^model name\s*: *(.+)$", text, re.MULTILINE)
    name = match[1] if match else platform.processor() or platform.machine()
    num_cores = os.cpu_count() or 1
    return f"{name}, {num_cores} core" + ("" if num_cores == 1 else "s")


def _loads(module: str) -> bool:
    """Whether the module can be imported: a native one may be there and not fit this torch."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError):
        return False
    return True

"""How long training stands still for a checkpoint of a 7B model's LoRA and its optimizer.

    python benchmarks/checkpoint_stall.py FOLDER

Rank 32 on every linear layer of a Llama-2-7B: 80 million weights in fp32 and AdamW's two moments,
0.96 GB. A matrix product stands for the training that goes on while the checkpoint is written.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ft.train.checkpoint import CheckpointFolder, Snapshot, TrainerState

RANK, NUM_LAYERS = 32, 32
SHAPES = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
SIZE = 4096


def trained_weights(device: torch.device) -> dict[str, torch.nn.Parameter]:
    """LoRA's A and B for every linear layer."""
    return {
        f"layer{layer}.{index}.{name}": torch.nn.Parameter(torch.randn(shape, device=device))
        for layer in range(NUM_LAYERS)
        for index, (inner, outer) in enumerate(SHAPES)
        for name, shape in (("A", (RANK, inner)), ("B", (outer, RANK)))
    }


def snapshot_of(
    weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, step: int
) -> Snapshot:
    """As CheckpointWriter takes it."""
    copies = {name: each.detach().to("cpu", copy=True) for name, each in weights.items()}
    write: Callable[[Path], Any] = lambda folder: save_file(copies, folder / "adapter.safetensors")  # noqa: E731
    return Snapshot.take(
        TrainerState(step=step),
        write_weights=write,
        optimizer=optimizer.state_dict(),
        schedule={},
        scaler=None,
    )


def main() -> None:
    """Three checkpoints, and what each one costs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = trained_weights(device)
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-4)
    for each in weights.values():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    size = SIZE if device.type == "cuda" else SIZE // 4
    matrix = torch.randn(size, size, device=device)

    def train_for(passes: int = 20) -> float:
        started = time.perf_counter()
        for _ in range(passes):
            float((matrix @ matrix).sum())
        return time.perf_counter() - started

    alone_s = statistics.median(train_for() for _ in range(20))
    folder = CheckpointFolder(Path(sys.argv[1]), keep=1)
    with ThreadPoolExecutor(1) as thread:
        for step in range(1, 4):
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            future = thread.submit(
                folder.commit, snapshot_of(weights, optimizer, step), keep_step=None
            )
            stall_s = time.perf_counter() - started
            beside = []
            while not future.done():
                beside.append(train_for())
            write_s = time.perf_counter() - started
            future.result()
            lost_s = sum(beside) - alone_s * len(beside)
            print(
                f"{device.type} checkpoint {step}: stall {stall_s:.2f} s, "
                f"on disk after {write_s:.2f} s, training beside it {lost_s:.2f} s slower, "
                f"longest pause {max(beside) - alone_s:.2f} s"
            )


if __name__ == "__main__":
    main()

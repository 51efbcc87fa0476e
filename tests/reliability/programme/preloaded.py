"""What the server of forks.py loads before it forks: all that `ft train` would."""

import importlib
import os

import torch

for name in (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "peft",
    "transformers.models.llama.modeling_llama",
    "ft.cli.app",
    "ft.cli.display",
    "ft.cli.preflight",
    "ft.train.run",
):
    importlib.import_module(name)

assert os.environ["OMP_NUM_THREADS"] == "1", "threads do not survive a fork"
torch.set_num_threads(1)

"""A base and records of which one cannot be learned from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from runs import write_config


def poison(folder: Path, tiny_llama: Path, **keys) -> Path:
    """A config whose base has NaN for the embedding of one token, and record 12 of 18 that token."""
    base = folder / "base"
    base.mkdir()
    for path in tiny_llama.iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    vocabulary = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][vocabulary["æ"]] = torch.nan  # the first byte of 水
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    config = write_config(folder, base, **keys)
    data = folder / "data.jsonl"
    lines = data.read_text().splitlines()
    lines[11] = lines[11].replace("SELECT", "SELECT \u6c34")
    data.write_text("\n".join(lines) + "\n")
    return config

"""The classic job on one GPU: sql.yml as it stands, on a Llama-2-7B-shaped base of random weights.

    python benchmarks/sql_7b.py --config sql.yml --data know_sql.jsonl --tokenizer LLAMA2 --work B

Makes the base (13.5 GB on disk), then runs `ft train` with base_model, data path and max_steps
overridden and nothing else, `ft merge`, and `ft infer` on the run and on the merged model, each in
a process of its own. Prints what a user would see, and the figures at the end.
LLAMA2 is a folder made by llama2_tokenizer.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

NUM_WARMUP_STEPS = 3


def make_base(folder: Path, tokenizer: Path, num_layers: int) -> None:
    """A checkpoint with Llama-2-7B's shape, random bf16 weights and the real tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(
        num_hidden_layers=num_layers, max_position_embeddings=4096, rms_norm_eps=1e-5
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)


def ft(*arguments: object) -> float:
    """Runs the command line; returns its wall time in seconds."""
    command = [sys.executable, "-m", "ft", *map(str, arguments)]
    print("$ ft", shlex.join(command[3:]), flush=True)
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def figures(events: Path) -> dict[str, float]:
    """Medians over the steps after the warm-up."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    all_steps = [line for line in lines if line["event"] == "step"]
    steps = all_steps[NUM_WARMUP_STEPS:]
    return {
        "num_steps": len(all_steps),
        "first_loss": round(all_steps[0]["loss"], 4),
        "last_loss": round(all_steps[-1]["loss"], 4),
        "step_time_s": statistics.median(step["step_time_s"] for step in steps),
        "tokens_per_s": statistics.median(step["tokens_per_s"] for step in steps),
        "tokens_per_step": statistics.median(step["num_tokens"] for step in steps),
        "peak_memory_gib": round(max(step["peak_memory_bytes"] for step in steps) / 2**30, 2),
    }


def main() -> None:
    """Base, train, merge, infer, table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--max-steps", type=int, default=20)
    parser.add_argument("overrides", nargs="*", help="further overrides, after --")
    given = parser.parse_args()
    base, out = given.work / "base", given.work / "out"
    if not base.exists():
        make_base(base, given.tokenizer, given.layers)
    os.environ["HF_HUB_OFFLINE"] = "1"
    seconds = {
        "train": ft(
            "train", given.config, "--base-model", base, "--datasets.0.path", given.data,
            "--max-steps", given.max_steps, "--output-dir", out, *given.overrides,
        )
    }  # fmt: skip
    question = (
        "--prompt", "How many heads of the departments are older than 56 ?",
        "--field", "context=CREATE TABLE head (age INTEGER)", "--max-new-tokens", 16,
    )  # fmt: skip
    seconds["infer"] = ft("infer", out, *question)
    seconds["merge"] = ft("merge", out)
    seconds["infer merged"] = ft("infer", out / "merged", *question)
    rows = figures(out / "events.jsonl") | {f"{k}_s": round(v, 1) for k, v in seconds.items()}
    merged_bytes = sum(path.stat().st_size for path in (out / "merged").glob("*.safetensors"))
    rows["merged_gb"] = round(merged_bytes / 1e9, 2)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

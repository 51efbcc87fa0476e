"""Do the short way's losses lie on those of the plain way? A real base, real text, 100 steps.

    python benchmarks/fast_losses.py --base SMOLLM2_FOLDER --data know_sql.jsonl [--bits 4]
    python benchmarks/fast_losses.py ... --runs truth exact          a CPU will do

Runs of the same batches and seeds, 8 records a step, LoRA on all linears:

    truth   plain (PEFT's own forwards, padded batches, all logits), everything in fp32
    exact   ours in fp32, compiled
    plain   as truth, in bf16
    eager   ours in bf16, uncompiled, records end to end
    ours    ours in bf16, compiled

In fp32 ours is to lie on the truth. bf16 rounds, and two ways that round differently drift apart as
they train; so each is compared with the truth: ours should be no further from it than plain is.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fast_path import FULL, Step, Trainer, build_on, losses
from transformers import AutoTokenizer

from ft.data.batches import Flat, PackedRow, Padded

RUNS = ("truth", "exact", "plain", "eager", "ours")


def rows_of(tokenizer: Any, data: Path) -> list[PackedRow]:
    """Question and schema, then the answer, which alone is trained."""
    rows = []
    for line in data.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        prompt = tokenizer(f"{record['context']}\n{record['question']}\n")["input_ids"]
        answer = tokenizer(record["answer"], add_special_tokens=False)["input_ids"]
        ids = np.array([*prompt, *answer, tokenizer.eos_token_id], dtype=np.int32)
        labels = ids.copy()
        labels[: len(prompt)] = -100
        rows.append(PackedRow(ids, labels, (len(ids),)))
    return rows


def steps_of(rows: list[PackedRow]) -> Iterator[Step]:
    """8 rows a step, in one pass."""
    order = np.random.default_rng(0).permutation(len(rows))
    for start in range(0, len(rows) - 7, 8):
        yield [[rows[i] for i in order[start : start + 8]]]


def main() -> None:
    """Runs the four, and prints how far they lie from each other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", type=int, choices=(4, 16), default=16)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    arguments = parser.parse_args()
    rows = rows_of(AutoTokenizer.from_pretrained(arguments.base), arguments.data)
    keys = {"base_model": str(arguments.base), "load_in_4bit": arguments.bits == 4}
    curves = {}
    for name in arguments.runs:
        is_plain, is_fp32 = name in ("truth", "plain"), name in ("truth", "exact")
        attention = {"attn_implementation": "sdpa"} if is_plain else {}
        loaded = build_on(keys | attention, is_plain=is_plain, computes_in_fp32=is_fp32)
        if name in ("exact", "ours"):
            loaded.compile(print)
        is_flat = loaded.attention.is_varlen
        trainer = Trainer(loaded, Flat(FULL) if is_flat else Padded(0))
        curves[name] = losses(trainer, steps_of(rows), arguments.steps).double()
        figures = " ".join(f"{float(loss):.4f}" for loss in curves[name][::10])
        print(f"{name:6} {loaded.attention.implementation:10} {figures}", flush=True)
        del trainer, loaded
        gc.collect()
    for one, other in (
        ("exact", "truth"),
        ("plain", "truth"),
        ("eager", "truth"),
        ("ours", "truth"),
        ("eager", "plain"),
        ("ours", "plain"),
    ):
        if not {one, other} <= curves.keys():
            continue
        distance = (curves[one] - curves[other]).abs() / curves[other]
        result = {
            "from": one,
            "to": other,
            "max": float(distance.max()),
            "mean": float(distance.mean()),
            "first_step": float(distance[0]),
            "steps_beyond_1e-3": int((distance > 1e-3).sum()),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

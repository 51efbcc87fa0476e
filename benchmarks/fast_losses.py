"""Do the short way's losses lie on those of the plain way? A real base, real text, 100 steps.

    python benchmarks/fast_losses.py --base SMOLLM2_FOLDER --data know_sql.jsonl [--bits 4]
    python benchmarks/fast_losses.py ... --rows full                 rows of 2,048 tokens
    python benchmarks/fast_losses.py ... --runs truth exact          a CPU will do

Runs of the same batches and seeds, 8 rows a step, LoRA on all linears; records whose answers are
trained, or the text of all records cut into full rows, all of it trained:

    truth   plain (PEFT's own forwards, padded batches, all logits), everything in fp32
    exact   ours in fp32, compiled
    plain   as truth, in bf16
    eager   ours in bf16, uncompiled, records end to end
    ours    ours in bf16, compiled

In fp32 ours is to lie on the truth. bf16 rounds: each way is compared with the truth, and ours with
its own definition, uncompiled.
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


def full_steps_of(rows: list[PackedRow]) -> Iterator[Step]:
    """4 passes of 2 rows of 2,048 tokens, all of them trained; again and again through the text."""
    text, at = np.concatenate([row.input_ids for row in rows]), 0
    while True:
        full = []
        for _ in range(8):
            ids = text[at : at + FULL]
            full.append(PackedRow(ids, ids, (FULL,)))
            at = (at + FULL) % (len(text) - FULL)
        yield [full[i : i + 2] for i in range(0, 8, 2)]


def main() -> None:
    """Runs them, and prints how far they lie from each other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bits", type=int, choices=(4, 16), default=16)
    parser.add_argument("--rows", choices=("answers", "full"), default="answers")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    arguments = parser.parse_args()
    rows = rows_of(AutoTokenizer.from_pretrained(arguments.base), arguments.data)
    keys = {"base_model": str(arguments.base), "load_in_4bit": arguments.bits == 4}
    steps = full_steps_of if arguments.rows == "full" else steps_of
    curves = {}
    for name in arguments.runs:
        is_plain, is_fp32 = name in ("truth", "plain"), name in ("truth", "exact")
        attention = {"attn_implementation": "sdpa"} if is_plain else {}
        loaded = build_on(keys | attention, is_plain=is_plain, computes_in_fp32=is_fp32)
        if name in ("exact", "ours"):
            loaded.compile(print)
        is_flat = loaded.attention.is_varlen
        trainer = Trainer(loaded, Flat(FULL) if is_flat else Padded(0))
        curves[name] = losses(trainer, steps(rows), arguments.steps).double()
        figures = " ".join(f"{float(loss):.4f}" for loss in curves[name][::10])
        print(f"{name:6} {loaded.attention.implementation:10} {figures}", flush=True)
        for other in [run for run in curves if run != name]:
            print(json.dumps(distance(name, other, curves)), flush=True)
        del trainer, loaded
        gc.collect()


def distance(one: str, other: str, curves: dict[str, torch.Tensor]) -> dict[str, Any]:
    """How far the losses of one run lie from those of another, relative to these, step by step."""
    steps = (curves[one] - curves[other]).abs() / curves[other]
    return {
        "from": one,
        "to": other,
        "max": float(steps.max()),
        "mean": float(steps.mean()),
        "first_step": float(steps[0]),
        "steps_beyond_1e-3": int((steps > 1e-3).sum()),
        "steps_beyond_2e-3": int((steps > 2e-3).sum()),
    }


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

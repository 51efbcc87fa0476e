"""Splits JSON-lines records so that no answer stands on both sides.

    python benchmarks/split_by_answer.py know_sql.jsonl --heldout 100 --out FOLDER

Writes FOLDER/train.jsonl and FOLDER/heldout.jsonl. Records that share an answer stay together, so a
held-out answer was never seen in training.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path


def split(lines: list[str], num_heldout: int, seed: int) -> tuple[list[str], list[str]]:
    """(training lines, held-out lines); exactly ``num_heldout`` are held out."""
    by_answer: dict[str, list[str]] = {}
    for line in lines:
        by_answer.setdefault(json.loads(line)["answer"].strip().lower(), []).append(line)
    groups = sorted(by_answer.values())
    random.Random(seed).shuffle(groups)
    train: list[str] = []
    heldout: list[str] = []
    for group in groups:
        side = heldout if len(heldout) + len(group) <= num_heldout else train
        side.extend(group)
    return train, heldout


def main() -> None:
    """Reads, splits, writes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--heldout", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines = given.source.read_text(encoding="utf-8").splitlines()
    train, heldout = split(lines, given.heldout, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "train.jsonl").write_text("\n".join(train) + "\n", encoding="utf-8")
    (given.out / "heldout.jsonl").write_text("\n".join(heldout) + "\n", encoding="utf-8")
    print(f"{len(train)} records to train on, {len(heldout)} held out")


if __name__ == "__main__":
    main()

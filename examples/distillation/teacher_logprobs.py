r"""What a teacher thinks of each trained token of a config's records, for `kd_trainer: true`.

    python examples/distillation/teacher_logprobs.py student.yml --teacher BIG/MODEL \
        --output kd.jsonl

Teacher and student must share their tokenizer. The records are laid out and tokenized as `ft train`
would; each line of the output holds input_ids, labels, and in `logprobs` one list of [id, logprob]
a trained token, the most likely first. Train on it with

    datasets:
      - path: kd.jsonl
        logprobs_field: logprobs
    kd_trainer: true
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft.data import prepare_data
from ft.data.segments import IGNORE_INDEX
from ft.spec import load_spec


def main() -> None:
    """Reads the config's records, asks the teacher, and writes a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--top-k", type=int, default=16)
    asked = parser.parse_args()
    spec = load_spec(asked.config).spec
    tokenizer = AutoTokenizer.from_pretrained(spec.model.base_model)
    data = prepare_data(
        spec.data, tokenizer=tokenizer, seed=spec.training.seed, base_dir=asked.config.parent
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = AutoModelForCausalLM.from_pretrained(asked.teacher, dtype="auto").to(device).eval()
    with asked.output.open("w", encoding="utf-8") as file, torch.no_grad():
        for row in data.train:
            ids = torch.from_numpy(row.input_ids.astype("int64"))[None].to(device)
            places = [i for i, label in enumerate(row.labels) if i and label != IGNORE_INDEX]
            logprobs = teacher(ids).logits[0].float().log_softmax(-1)
            top = logprobs[[place - 1 for place in places]].topk(asked.top_k)
            entries: list[list[list[float]]] = [
                [list(pair) for pair in zip(ids_of, values, strict=True)]
                for ids_of, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            ]
            if row.labels[0] != IGNORE_INDEX:  # trained by its label, but nothing predicts it
                entries.insert(0, [])
            record = {
                "input_ids": row.input_ids.tolist(),
                "labels": row.labels.tolist(),
                "logprobs": entries,
            }
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()

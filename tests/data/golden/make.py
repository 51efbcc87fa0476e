"""Writes what axolotl itself makes of cases.json, for one tokenizer: the golden values.

Run it where axolotl is installed (0.19.0 wrote the files here), then look at the difference:

    python make.py TOKENIZER_DIR > llama2.json

One line a case: its rows, each as the ids and the spans [start, stop) of them that are trained.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
BOS_OF_LLAMA = "<s>"


def main(tokenizer_dir: str) -> None:
    from axolotl.utils.data import wrappers
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset
    from transformers import AutoTokenizer

    lines = []
    for case in json.loads((HERE / "cases.json").read_text()):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
        type_name = case["dataset"]["type"]
        is_padded = type_name == "llama2_chat"
        if is_padded and tokenizer.bos_token != BOS_OF_LLAMA:
            continue
        tokenizer.pad_token = tokenizer.unk_token if is_padded else tokenizer.eos_token
        base, _, style = str(type_name).partition(":")
        cfg = {"sequence_len": 512, "train_on_inputs": False, "dataset_num_proc": 1}
        rows, _ = wrappers.get_dataset_wrapper(
            dataset_config=DictDefault({"path": "-", **case["dataset"]}),
            tokenizer=tokenizer,
            cfg=DictDefault({**cfg, **case.get("options", {})}),
            dataset_base_type=base,
            dataset=Dataset.from_list([case["record"]]),
            dataset_prompt_style=style or None,
        )
        found = [_golden(row, tokenizer.pad_token_id if is_padded else None) for row in rows]
        lines.append(f"{json.dumps(case['name'])}: {json.dumps(found, separators=(',', ':'))}")
    print("{\n" + ",\n".join(lines) + "\n}")


def _golden(row: dict[str, list[int]], pad_id: int | None) -> dict[str, list]:
    ids, labels = list(row["input_ids"]), list(row["labels"])
    while pad_id is not None and ids[-1] == pad_id and labels[-1] == -100:
        ids.pop(), labels.pop()
    spans: list[list[int]] = []
    for position, label in enumerate(labels):
        assert label in (-100, ids[position])
        if label != -100 and spans and spans[-1][1] == position:
            spans[-1][1] += 1
        elif label != -100:
            spans.append([position, position + 1])
    return {"input_ids": ids, "trained": spans}


if __name__ == "__main__":
    main(sys.argv[1])

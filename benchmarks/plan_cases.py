"""The planner's memory beside the measured one: runs of `ft train`'s own parts, random weights.

    python benchmarks/plan_cases.py --work W [--cases NAME ...] [--json FILE]

Each case is a config for `ft train` on records of equal length: data, plan, model, loop, the
rehearsal on the longest batch, then a few optimizer steps. Nothing is downloaded, and nothing but
a config and a small tokenizer is written. Peak memory is torch's (max_memory_allocated) over the
steps; what the process holds beside that (context, reserved but free) is told too. Prints a table
and a JSON line a case: the plan, its parts, and what was measured after each stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, PreTrainedTokenizerFast

from ft.bench.spec import of_random_weights
from ft.runtime import FtError
from ft.spec import load_spec
from ft.train.assembly import StandIns, build_run
from ft.train.claim import claim_run
from ft.train.rehearsal import settle_plan
from ft.train.signals import StopRequest
from ft.train.teller import Teller

GIB = 2**30
NUM_STEPS = 4

SHAPES: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_key_value_heads": 32, "vocab_size": 32000},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_key_value_heads": 8, "vocab_size": 128256},
    "13B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
            "num_attention_heads": 40, "num_key_value_heads": 40, "vocab_size": 32000},
}  # fmt: skip
QLORA = {"adapter": "qlora", "load_in_4bit": True, "lora_r": 32, "lora_target_linear": True}
LORA = {"adapter": "lora", "lora_r": 16, "lora_target_linear": True}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # name: shape, tokens a record, keys
    "7B qlora 2x2048": ("7B", 2048, {**QLORA, "micro_batch_size": 2}),
    "7B qlora short": ("7B", 105, {**QLORA, "micro_batch_size": 8}),
    "7B qlora always": (
        "7B", 2048, {**QLORA, "micro_batch_size": 2, "gradient_checkpointing": "always"}
    ),
    "8B lora 1x8192": ("8B", 8192, {**LORA, "micro_batch_size": 1}),
    "8B lora 1x16384": ("8B", 16384, {**LORA, "micro_batch_size": 1}),
    "13B qlora 2x2048": ("13B", 2048, {**QLORA, "micro_batch_size": 2}),
    "8B full bf16 8-bit": ("8B", 2048, {"bf16": "full", "optimizer": "adamw_bnb_8bit"}),
    "1B full fp32 states": ("1B", 2048, {"micro_batch_size": 2}),
}  # fmt: skip


def write_case(folder: Path, shape: str, length: int, keys: dict[str, Any]) -> Path:
    """A base without weights, records of one length, a config."""
    shutil.rmtree(folder, ignore_errors=True)
    base = folder / "base"
    config = {"num_attention_heads": 32, "max_position_embeddings": 32768, **SHAPES[shape]}
    LlamaConfig(**config, architectures=["LlamaForCausalLM"]).save_pretrained(base)
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *map(str, range(500))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(base)
    ids = [3 + i % 500 for i in range(length - 1)] + [2]
    record = {"input_ids": ids, "labels": ids, "attention_mask": [1] * length}
    (folder / "data.jsonl").write_text((json.dumps(record) + "\n") * 64)
    settings = {
        "base_model": str(base),
        "datasets": [{"path": str(folder / "data.jsonl"), "type": None}],
        "sequence_len": max(length, 512),
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": NUM_STEPS,
        "learning_rate": 1e-5,
        "bf16": True,
        "val_set_size": 0,
        "save_strategy": "no",
        "output_dir": str(folder / "out"),
        **keys,
    }
    path = folder / "run.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


def run_case(config: Path) -> dict[str, Any]:
    """Plan and measurements of one run."""
    events: list[dict[str, Any]] = []
    stages: dict[str, float] = {}
    started = time.perf_counter()
    torch.cuda.reset_peak_memory_stats()
    loaded = of_random_weights(load_spec(config, []))
    with claim_run(loaded, overwrite=True) as claimed:
        teller = Teller(events.append)
        built = build_run(claimed, teller, StandIns(draws_on_device=True))
        stages["model_bytes"] = torch.cuda.memory_allocated()
        stages["loading_peak_bytes"] = torch.cuda.max_memory_allocated()
        first = built.plan.to_json()
        rehearsal: list[float] = []
        plan = settle_plan(built, claimed.directory, on_peak=rehearsal.append)
        stages["rehearsal_peak_bytes"] = rehearsal[-1] if rehearsal else 0
        built.loop.settings = dataclasses.replace(built.loop.settings, saves=False)
        torch.cuda.reset_peak_memory_stats()
        built.loop.run(StopRequest(None))
        torch.cuda.synchronize()
        stages["after_bytes"] = torch.cuda.memory_allocated()
        teller.close()
    free, total = torch.cuda.mem_get_info()
    steps = [event for event in events if event["event"] == "step"]
    times = [step["step_time_s"] for step in steps[2:]]
    return {
        "plan": plan.to_json(),
        "first_plan": first,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "outside_bytes": total - free - torch.cuda.memory_reserved(),
        "stages": stages,
        "step_time_s": statistics.median(times),
        "tokens_per_s": round(steps[-1]["num_tokens"] / statistics.median(times)),
        "attention": next(e["attention"] for e in events if e["event"] == "model"),
        "lines": [e["text"] for e in events if e["event"] == "line"],
        "wall_s": round(time.perf_counter() - started, 1),
    }


def row(name: str, result: dict[str, Any]) -> str:
    """Predicted beside measured."""
    plan, measured = result["plan"], result["peak_bytes"]
    predicted = plan["peak_bytes"]
    error = "" if predicted is None else f"{100 * (predicted / measured - 1):+.1f} %"
    parts = " ".join(f"{k[:5]} {v / GIB:.2f}" for k, v in (plan["parts"] or {}).items())
    choice = f"{plan['num_recomputed']}r {plan['num_kept']}k {plan['pass_tokens']}t"
    expected = plan["step_time_s"] or 0
    return (
        f"{name:22} {choice:18} {(predicted or 0) / GIB:7.2f} {measured / GIB:7.2f} {error:>8}  "
        f"{expected:6.3f} {result['step_time_s']:6.3f} s {result['tokens_per_s']:>7} tok/s  {parts}"
    )


def main() -> None:
    """All cases, one after the other; one that fails is told and passed over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    print(f"{'case':22} {'plan':18} {'expect':>7} {'measured GiB':>12}", flush=True)
    lines = []
    for name in given.cases:
        gc.collect()
        torch.cuda.empty_cache()
        torch._dynamo.reset()
        left = torch.cuda.memory_allocated()
        try:
            result = run_case(write_case(given.work / "case", *CASES[name]))
        except (FtError, RuntimeError, ValueError) as error:
            print(f"{name:22} FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        lines.append(json.dumps({"case": name, "left_bytes": left, **result}))
        print(row(name, result), flush=True)
        print("PLAN", lines[-1], flush=True)
    if given.json:
        given.json.write_text("\n".join(lines) + "\n")
    sys.exit(0 if lines else 1)


if __name__ == "__main__":
    main()

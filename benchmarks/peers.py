"""Other trainers on the job that `ft bench` measures: the same shape and rows, their own code.

    python benchmarks/peers.py make                     a model of random weights, and data; once
    python benchmarks/peers.py transformers full        each: [no-recompute]; few: 64 short records
    python benchmarks/peers.py unsloth full             short: packed; few unpacked: 8 rows a step
    python benchmarks/peers.py axolotl full             short: packed

Llama-2-7B's shape, NF4 with double quantization, LoRA r=32 on the seven linears, dropout 0, bf16,
rows of 2,048 tokens, 2 x 4 of them a step; or short records, about 105 tokens, a quarter trained.
Each run prints a line `RESULT {json}`: the median step after three is what counts.
PEERS_WORK names the folder of model and data (default peers-work), PEERS_STEPS the optimizer steps,
PEERS_TINY=1 makes all of it small enough for a CPU (transformers alone runs there).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORK = Path(os.environ.get("PEERS_WORK", "peers-work")).absolute()
IS_TINY = os.environ.get("PEERS_TINY") == "1"
NUM_STEPS = int(os.environ.get("PEERS_STEPS", "8"))
NUM_WARMUP_STEPS = 3
SEQUENCE_LEN = 256 if IS_TINY else 2048
MICRO_BATCH_SIZE, ACCUMULATION = 2, 4
ROWS_PER_STEP = MICRO_BATCH_SIZE * ACCUMULATION
NUM_SHORT = 64 if IS_TINY else 1500
VOCABULARY = 32000
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


# -- model and data ---------------------------------------------------------------------------


def make() -> None:
    """The checkpoint, its tokenizer and the three data files."""
    WORK.mkdir(parents=True, exist_ok=True)
    if not (WORK / "model" / "config.json").exists():
        _make_model()
        _make_tokenizer()
    generator = random.Random(0)
    full = [[SEQUENCE_LEN, 0] for _ in range(NUM_STEPS * ROWS_PER_STEP + 8)]
    lengths = [int(math.exp(generator.gauss(4.6, 0.35))) for _ in range(NUM_SHORT)]
    short = [
        [length, length * 3 // 4] for length in (min(SEQUENCE_LEN, max(40, n)) for n in lengths)
    ]
    _write("full", full, generator)
    _write("short", short, generator)
    _write("few", short[: NUM_STEPS * ROWS_PER_STEP], generator)


def _make_model() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=2 if IS_TINY else 32,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        **(sizes if IS_TINY else {}),
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(WORK / "model")


def _make_tokenizer() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCABULARY))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )
    fast.model_max_length = 1 << 20
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(WORK / "model")


def _write(name: str, rows: list[list[int]], generator: random.Random) -> None:
    """Rows of random ids, given as (tokens, those of them that are not trained)."""
    with (WORK / f"{name}.jsonl").open("w") as file:
        for length, num_ignored in rows:
            ids = [1, *(generator.randrange(3, VOCABULARY) for _ in range(length - 2)), 2]
            labels = [IGNORED] * num_ignored + ids[num_ignored:]
            row = {"input_ids": ids, "attention_mask": [1] * length, "labels": labels}
            file.write(json.dumps(row) + "\n")


# -- what every run reports -------------------------------------------------------------------


class StepTimes:
    """When each optimizer step ended, the device done with it."""

    def __init__(self, name: str, data: str) -> None:
        self.name, self.data = name, data
        self.ends_s: list[float] = []

    def callback(self) -> Any:
        """A TrainerCallback class of transformers that takes the times."""
        import torch
        from transformers import TrainerCallback

        ends_s = self.ends_s

        class TakesTimes(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                ends_s.append(time.perf_counter())
                if len(ends_s) == NUM_WARMUP_STEPS and torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()

        return TakesTimes

    def report(self, *, is_packed: bool) -> None:
        """Prints the RESULT line."""
        import torch

        counted = self.ends_s[NUM_WARMUP_STEPS - 1 :]
        times_s = sorted(end - begin for begin, end in itertools.pairwise(counted))
        median_s = times_s[len(times_s) // 2]
        with (WORK / f"{self.data}.jsonl").open() as file:
            num_tokens = sum(len(json.loads(line)["input_ids"]) for line in file)
        tokens_per_step = num_tokens / len(self.ends_s)
        if self.data == "full":
            tokens_per_step = SEQUENCE_LEN * ROWS_PER_STEP
        result = {
            "name": self.name,
            "data": self.data,
            "is_packed": is_packed,
            "num_steps": len(times_s),
            "median_step_s": round(median_s, 4),
            "tokens_per_step": round(tokens_per_step, 1),
            "tokens_per_s": round(tokens_per_step / median_s, 1),
            "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)
            if torch.cuda.is_available()
            else None,
        }
        print("RESULT " + json.dumps(result), flush=True)


def _arguments(data: str) -> dict[str, Any]:
    """What every Trainer here is told."""
    import torch

    has_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(WORK / "out"),
        "per_device_train_batch_size": MICRO_BATCH_SIZE,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": NUM_STEPS if data == "full" else -1,
        "num_train_epochs": 1,
        "bf16": True,
        "use_cpu": not has_gpu,
        "optim": "paged_adamw_32bit" if has_gpu else "adamw_torch",
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _load_rows(data: str) -> Any:
    from datasets import load_dataset

    return load_dataset("json", data_files=str(WORK / f"{data}.jsonl"), split="train")


# -- the trainers -----------------------------------------------------------------------------


def run_transformers(data: str, mode: str) -> None:
    """The Trainer of transformers with PEFT, padded to the longest row of a micro-batch."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        BitsAndBytesConfig,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    recompute = {
        "gradient_checkpointing": mode != "no-recompute",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        WORK / "model",
        quantization_config=quantization,
        dtype=torch.bfloat16,
        attn_implementation="sdpa",
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
    )
    model = prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=recompute["gradient_checkpointing"],
        gradient_checkpointing_kwargs=recompute["gradient_checkpointing_kwargs"],
    )
    lora = LoraConfig(
        r=32, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    times = StepTimes(f"transformers {data} {mode}".strip(), data)
    arguments = {**_arguments(data), **recompute, "remove_unused_columns": False}
    Trainer(
        model,
        TrainingArguments(**arguments),
        train_dataset=_load_rows(data),
        data_collator=DataCollatorForSeq2Seq(
            AutoTokenizer.from_pretrained(WORK / "model"), padding="longest"
        ),
        callbacks=[times.callback()()],
    ).train()
    times.report(is_packed=False)


def run_unsloth(data: str, mode: str) -> None:
    """The trainer of unsloth; short records in packs unless it is told otherwise."""
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "0")
    from unsloth import FastLanguageModel  # isort: skip  # first, as it asks for

    import torch
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(WORK / "model"),
        max_seq_length=SEQUENCE_LEN,
        dtype=torch.bfloat16,
        load_in_4bit=True,
        local_files_only=True,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=32,
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        target_modules=TARGETS,
        use_gradient_checkpointing=False if mode == "no-recompute" else "unsloth",
        random_state=0,
    )
    is_packed = data != "full" and mode != "unpacked"
    times = StepTimes(f"unsloth {data} {mode}".strip(), data)
    arguments = {**_arguments(data), "max_length": SEQUENCE_LEN, "packing": is_packed}
    SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=_load_rows(data),
        args=SFTConfig(**arguments),
        callbacks=[times.callback()()],
    ).train()
    times.report(is_packed=is_packed)


def run_axolotl(data: str, mode: str) -> None:
    """The trainer of axolotl with its fused LoRA kernels; it resets the peak memory itself."""
    os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
    import yaml
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets
    from axolotl.train import train
    from transformers import trainer

    is_packed = data != "full"
    times = StepTimes(f"axolotl {data} {mode}".strip(), data)
    trainer.DEFAULT_CALLBACKS.append(times.callback())
    entry = {"path": str(WORK / f"{data}.jsonl"), "ds_type": "json", "type": None}
    config = {
        "base_model": str(WORK / "model"),
        "load_in_4bit": True,
        "adapter": "qlora",
        "lora_r": 32,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "lora_mlp_kernel": True,
        "lora_qkv_kernel": True,
        "lora_o_kernel": True,
        "datasets": [entry],
        "dataset_prepared_path": str(WORK / f"prepared-{data}"),
        "val_set_size": 0,
        "output_dir": str(WORK / "out-axolotl"),
        "sequence_len": SEQUENCE_LEN,
        "sample_packing": is_packed,
        "pad_to_sequence_len": is_packed,
        "micro_batch_size": MICRO_BATCH_SIZE,
        "gradient_accumulation_steps": ACCUMULATION,
        "num_epochs": 1,
        "optimizer": "paged_adamw_32bit",
        "lr_scheduler": "cosine",
        "learning_rate": 2e-4,
        "bf16": True,
        "gradient_checkpointing": mode != "no-recompute",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "logging_steps": 1,
        "save_strategy": "no",
        "warmup_steps": 1,
        "attn_implementation": "sdpa",
        **({"max_steps": NUM_STEPS} if data == "full" else {}),
    }
    file = WORK / "axolotl.yml"
    file.write_text(yaml.safe_dump(config))
    loaded = load_cfg(str(file))
    train(cfg=loaded, dataset_meta=load_datasets(cfg=loaded, cli_args=TrainerCliArgs()))
    times.report(is_packed=is_packed)


PEERS: dict[str, Callable[[str, str], None]] = {
    "transformers": run_transformers,
    "unsloth": run_unsloth,
    "axolotl": run_axolotl,
}


def main() -> None:
    """Makes model and data, or runs one trainer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    what, *rest = sys.argv[1:]
    if what == "make":
        make()
        return
    data, mode = [*rest, ""][:2]
    PEERS[what](data, mode)


if __name__ == "__main__":
    main()

"""How long training stands still for a checkpoint of a 7B model's LoRA and its optimizer.

    python benchmarks/checkpoint_stall.py FOLDER          on a card: Llama-2-7B's shape, in bf16
    python benchmarks/checkpoint_stall.py FOLDER --tiny   anywhere: does the script work?

Random weights are made on the card. Rank 32 on every linear layer: 80 million weights in fp32 and
AdamW's two moments, 0.96 GB a checkpoint. Real training steps run beside the writing; it is the
writer of `ft train` that saves. The first save locks the pages that the later ones use again.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaConfig, LlamaForCausalLM

from ft.model import LoadedModel, Precision, probe_hardware
from ft.model.attention import Attention
from ft.train.checkpoint import CheckpointFolder, TrainerState
from ft.train.saving import CheckpointWriter, Written

NUM_SAVES, STEPS_BETWEEN = 6, 6
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 500}  # fmt: skip


def random_model(device: torch.device, *, is_tiny: bool) -> LoadedModel:
    """LoRA of rank 32 on all linear layers of a random Llama."""
    config = LlamaConfig(**(TINY if is_tiny else {}), use_cache=False)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        base = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    lora = LoraConfig(r=32, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora).to(device)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    attention = Attention("sdpa", is_varlen=False, reason="")
    return LoadedModel(model, cast("Any", None), Precision(), attention, probe_hardware())


def main() -> None:
    """Some saves with steps between them, and what each one costs."""
    folder, is_tiny = Path(sys.argv[1]), "--tiny" in sys.argv
    accelerator = Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())
    loaded = random_model(accelerator.device, is_tiny=is_tiny)
    parameters = [p for _, p in loaded.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    written: list[Written] = []
    writer = CheckpointWriter(
        CheckpointFolder(folder, keep=1),
        accelerator=accelerator,
        weights=loaded,
        optimizer=optimizer,
        schedule=LambdaLR(optimizer, lambda step: 1.0),
        on_written=written.append,
    )
    vocabulary = loaded.model.get_base_model().config.vocab_size
    ids = torch.randint(vocabulary, (1, 512), device=accelerator.device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(accelerator.device.type, torch.bfloat16):
            loss = loaded.model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        return time.perf_counter() - started

    step()
    alone_s = statistics.median(step() for _ in range(STEPS_BETWEEN))
    stalls_s, beside_s = [], []
    for number in range(NUM_SAVES):
        started = time.perf_counter()
        writer.save(TrainerState(step=number + 1), keep_step=None)
        stalls_s.append(time.perf_counter() - started)
        while len(written) <= number:
            beside_s.append(step())
            writer.poll()
    writer.close()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    saved_s = [each.save_time_s for each in written]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    print(f"{device}, torch {torch.__version__}: {loaded.num_trainable:,} trained weights")
    print(f"{size / 1e9:.2f} GB a checkpoint, on the disk after (s):", _median(saved_s))
    print(f"stall of the first save {stalls_s[0]:.3f} s, of the others:", _median(stalls_s[1:]))
    print(f"a step alone {alone_s:.3f} s, beside the writing:", _median(beside_s))


def _median(values: list[float]) -> str:
    return f"median {statistics.median(values):.3f}, longest {max(values):.3f} of {len(values)}"


if __name__ == "__main__":
    main()

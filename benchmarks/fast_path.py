"""The short way through a layer, piece by piece: Llama-2-7B shape, NF4, LoRA on all linears, bf16.

    python benchmarks/fast_path.py --data know_sql.jsonl [--layers 32] [--levers] [--skip-plain]

Random weights, drawn on the GPU; real text (its bytes as tokens). Two kinds of step: 4 passes of
2 x 2,048 tokens, and 8 records of about 105 tokens in one pass. Each is measured without recompute
for: PEFT's and bitsandbytes' own forwards; ours, eager; ours with dequantized weights kept; both
compiled. Prints a JSON line each: tokens/s (median step, batches made anew), peak memory, seconds
of the first step (compilation), graphs compiled. Then: where the time of a short step goes, and how
far the losses of 40 steps lie from those of the plain forwards.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch._dynamo.utils import counters
from transformers import LlamaConfig

from ft.data.batches import Flat, Layout, PackedRow
from ft.evaluate.objective import SupervisedTuning
from ft.model import LoadedModel, LoadedTokenizer, choose_precision, probe_hardware
from ft.model.adapter import Origin, add_adapter
from ft.model.base import load_base
from ft.model.build import _choose_attention, prepare_execution
from ft.spec.runspec import AdapterSpec, ModelSpec, PrecisionSpec

FULL, SHORT = 2048, 105
Step = list[list[PackedRow]]
"""The rows of each pass."""


def texts(data: Path) -> list[np.ndarray]:
    """Records as bytes, shifted past the special ids."""
    lines = data.read_text(encoding="utf-8").splitlines()
    records = [" ".join(str(value) for value in json.loads(line).values()) for line in lines]
    return [np.frombuffer(r.encode(), dtype=np.uint8).astype(np.int32) + 3 for r in records]


def short_steps(records: list[np.ndarray]) -> Iterator[Step]:
    """8 records a step, of 60 to 150 tokens; the last quarter of each is trained."""
    rng = np.random.default_rng(0)
    while True:
        rows = []
        for number in rng.integers(0, len(records), 8):
            ids = records[number][: int(rng.integers(60, 151))]
            labels = ids.copy()
            labels[: len(ids) * 3 // 4] = -100
            rows.append(PackedRow(ids, labels, (len(ids),)))
        yield [rows]


def full_steps(records: list[np.ndarray]) -> Iterator[Step]:
    """4 passes of 2 rows of exactly 2,048 tokens, all of them trained."""
    text, at = np.concatenate(records), 0
    while True:
        rows = []
        for _ in range(8):
            at = (at + FULL) % (len(text) - FULL)
            ids = text[at : at + FULL]
            rows.append(PackedRow(ids, ids, (FULL,)))
        yield [rows[i : i + 2] for i in range(0, 8, 2)]


def build(num_layers: int, *, is_plain: bool) -> LoadedModel:
    """The same model every time."""
    folder = Path(tempfile.mkdtemp())
    LlamaConfig(num_hidden_layers=num_layers, max_position_embeddings=4096).save_pretrained(folder)
    keys = {"base_model": str(folder), "load_in_4bit": True, "random_init_seed": 0}
    return build_on(keys, is_plain=is_plain)


def build_on(
    keys: dict[str, Any], *, is_plain: bool, computes_in_fp32: bool = False
) -> LoadedModel:
    """A base, a new adapter of rank 32 on it, on the short way or as the libraries have it."""
    spec = ModelSpec.model_validate(keys)
    adapter = AdapterSpec.model_validate(
        {"adapter": "lora", "lora_r": 32, "lora_alpha": 16, "lora_target_linear": True}
    )
    hardware = probe_hardware()
    formats = PrecisionSpec(bf16=not computes_in_fp32, fp16=False, tf32=False)
    precision = choose_precision(formats, hardware, trains_all=False)
    attention = _choose_attention(spec, adapter, precision, hardware, None)
    base = load_base(
        spec,
        precision,
        hardware=hardware,
        attention=attention.implementation,
        draws_on_device=True,
    )
    model, _ = add_adapter(
        base.model,
        adapter,
        origin=Origin("random"),
        seed=0,
        dtype=precision.trainable_dtype,
        has_new_tokens=False,
    )
    model.train()
    loaded = LoadedModel(model, LoadedTokenizer(None), precision, attention, hardware)
    if not is_plain:
        prepare_execution(loaded)
    return loaded


class Trainer:
    """One optimizer step as the loop makes it, without what the loop does around it."""

    def __init__(self, loaded: LoadedModel, layout: Layout | None = None) -> None:
        self.loaded = loaded
        self.objective = SupervisedTuning(
            layout or Flat(FULL), has_loss_head=loaded.loss_head is not None
        )
        self.parameters = [p for _, p in loaded.trainable_parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True, weight_decay=0.0)

    def step(self, passes: Step) -> torch.Tensor:
        """The mean loss of the step, on the device."""
        num_trained = sum(self.objective.weight(row) for rows in passes for row in rows)
        total = torch.zeros((), device=self.loaded.device)
        for rows in passes:
            batch = self.objective.layout.batch(rows).to(self.loaded.device)
            with self.loaded.autocast():
                loss = self.objective.loss_sum(self.loaded.model, batch) / num_trained
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


def measure(name: str, trainer: Trainer, steps: Iterator[Step], num_steps: int) -> dict[str, Any]:
    """Median tokens per second after three steps."""
    torch.cuda.reset_peak_memory_stats()
    counters.clear()
    seconds, rates = [], []
    for _ in range(num_steps + 3):
        passes = next(steps)
        torch.cuda.synchronize()
        started = time.perf_counter()
        trainer.step(passes)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        rates.append(sum(len(r.input_ids) for rows in passes for r in rows) / seconds[-1])
    result = {
        "case": name,
        "tok_s": round(median(rates[3:])),
        "step_ms": round(1e3 * median(seconds[3:]), 1),
        "first_steps_s": [round(s, 2) for s in seconds[:3]],
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "graphs": counters["stats"].get("unique_graphs", 0),
    }
    print(json.dumps(result), flush=True)
    return result


def profile(name: str, trainer: Trainer, steps: Iterator[Step], step_ms: float) -> None:
    """Share of the step in which a kernel runs; the largest kernels, and the largest host costs."""
    from torch.profiler import ProfilerActivity

    passes = next(steps)
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        trainer.step(passes)
        torch.cuda.synchronize()
    averages = profiler.key_averages()
    kernels = [a for a in averages if a.device_type == torch.autograd.DeviceType.CUDA]
    kernel_ms = sum(a.self_device_time_total for a in kernels) / 1e3
    num_launched = sum(a.count for a in kernels)
    share = kernel_ms / step_ms
    print(f"PROFILE {name}: kernels {kernel_ms:.1f} ms of {step_ms} = {share:.2f}, {num_launched}")
    for a in sorted(kernels, key=lambda a: -a.self_device_time_total)[:15]:
        print(f"  gpu {a.self_device_time_total / 1e3:9.2f} ms {a.count:6} x {a.key[:100]}")
    for a in sorted(averages, key=lambda a: -a.self_cpu_time_total)[:20]:
        print(f"  cpu {a.self_cpu_time_total / 1e3:9.2f} ms {a.count:6} x {a.key[:90]}", flush=True)


def losses(trainer: Trainer, steps: Iterator[Step], num_steps: int) -> torch.Tensor:
    """Of each step."""
    return torch.stack([trainer.step(next(steps)) for _ in range(num_steps)]).cpu()


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """A case that fails is told of; the others go on."""
    try:
        return function(*arguments)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
        print(json.dumps({"case": arguments[0], "failed": str(error)[:1500]}), flush=True)
        return None


def main() -> None:
    """Everything, in the order of how much it tells."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--levers", action="store_true", help="ways to launch faster")
    parser.add_argument("--skip-plain", action="store_true")
    arguments = parser.parse_args()
    records, everything = texts(arguments.data), range(arguments.layers)
    print(torch.__version__, torch.cuda.get_device_name(), flush=True)
    expected = None
    if not arguments.skip_plain:
        started = time.perf_counter()
        trainer = Trainer(build(arguments.layers, is_plain=True))
        print(f"built in {time.perf_counter() - started:.1f} s", flush=True)
        expected = losses(trainer, short_steps(records), 40)
        attempt(measure, "short, plain", trainer, short_steps(records), 5)
        attempt(measure, "full, plain, no recompute", trainer, full_steps(records), 2)
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
    loaded = build(arguments.layers, is_plain=False)
    execution = loaded.execution
    assert execution is not None
    trainer = Trainer(loaded)

    def both(name: str, num_short: int = 12, num_full: int = 4) -> dict[str, Any] | None:
        short = attempt(measure, f"short, {name}", trainer, short_steps(records), num_short)
        attempt(measure, f"full, {name}", trainer, full_steps(records), num_full)
        return short

    execution.set(recomputed_layers=(), kept_layers=everything)
    execution.compile()
    assert loaded.loss_head is not None
    loaded.loss_head.compile_softmax()
    if expected is not None:
        got = attempt(losses, trainer, short_steps(records), 40)
        if got is not None:
            furthest = ((got - expected).abs() / expected).max()
            print(f"LOSSES {expected[0]:.4f} -> {expected[-1]:.4f}, furthest {furthest:.2e}")
            print("  plain", [round(float(x), 4) for x in expected[::4]])
            print("  ours ", [round(float(x), 4) for x in got[::4]], flush=True)
    short = both("compiled, kept")
    if short is not None:
        profile("short, compiled, kept", trainer, short_steps(records), short["step_ms"])
    if arguments.levers:
        levers(execution, both)
        return
    execution.set(recomputed_layers=(), kept_layers=())
    both("compiled, packed")
    execution.set(recomputed_layers=everything, kept_layers=())
    both("compiled, packed, recomputed", 5, 2)
    execution.compile(False)
    execution.set(recomputed_layers=(), kept_layers=everything)
    both("eager, kept", 5, 2)
    execution.set(recomputed_layers=(), kept_layers=())
    both("eager, packed", 5, 2)


def levers(execution: Any, both: Callable[..., Any]) -> None:
    """What torch offers against the cost of launching, one by one."""
    torch._dynamo.reset()
    execution.compile(
        options={"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    )
    both("compiled, kept, no guards on modules")
    for name, setting in {
        "combo kernels": {"combo_kernels": True},
        "C++ wrapper": {"cpp_wrapper": True},
        "CUDA graph a layer": {"triton.cudagraphs": True},
    }.items():
        torch._dynamo.reset()
        execution.compile(options=setting)
        both(f"compiled, kept, {name}")


if __name__ == "__main__":
    main()

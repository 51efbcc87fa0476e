"""Adapter and merged model on the same texts: how often the first choice is another, and why.

    python benchmarks/merge_agreement.py RUN --records held.jsonl

Compares the run's adapter, computed in fp32, with: itself in bf16; the merged weights in fp32; the
merged weights rounded to bf16, in fp32 arithmetic and in bf16; and the base alone in both formats,
which has nothing merged. A first choice that changes is a near-tie if the best two logits are
closer than one step of bf16 at their size.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ft.data.layout import StrategyOptions
from ft.data.source_rows import SourceReader
from ft.evaluate.trained import TrainedRun, open_run
from ft.model import LoadedModel, Precision, load_trained, probe_hardware
from ft.ship.merge_layers import merge_layers

FP32 = Precision("fp32", "no", "fp32")
BF16_AUTOCAST = Precision("bf16", "bf16", "bf16")
BF16 = Precision("bf16", "no", "bf16")
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Asks all the models, one at a time, and prints a line for each pair."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--records", type=Path, required=True)
    options = parser.parse_args()
    run = open_run(options.run)
    loaded = load(run, FP32)
    probes = list(texts(run, options.records, loaded))
    print(f"{len(probes)} records, {sum(map(len, probes)):,} tokens")
    adapter = answers(loaded, probes)
    with loaded.without_adapter():
        base = answers(loaded, probes)
    loaded = load(run, BF16_AUTOCAST)
    adapter_bf16 = answers(loaded, probes)
    with loaded.without_adapter():
        report("base alone: fp32 | bf16", base, answers(loaded, probes))
    del loaded, base
    report("adapter: fp32 | bf16", adapter, adapter_bf16)
    report("adapter fp32 | merged fp32", adapter, answers(merged(run, "fp32", "fp32"), probes))
    rounded = answers(merged(run, "bf16", "fp32"), probes)
    report("adapter fp32 | merged bf16, fp32 products", adapter, rounded)
    merged_bf16 = answers(merged(run, "bf16", "bf16"), probes)
    report("adapter fp32 | merged bf16", adapter, merged_bf16)
    report("adapter bf16 | merged bf16", adapter_bf16, merged_bf16)
    report("merged bf16: fp32 products | bf16 products", rounded, merged_bf16)


def load(
    run: TrainedRun, precision: Precision, form: Literal["trained", "dequantized"] = "trained"
) -> LoadedModel:
    """The run's model with its adapter."""
    return load_trained(
        run.folder, run.model, run.adapter, precision, hardware=probe_hardware(), form=form
    )


def merged(run: TrainedRun, weights: str, compute: str) -> LoadedModel:
    """The merged model with weights rounded to one format, computed in another."""
    loaded = load(run, FP32, "dequantized")
    merge_layers(loaded.model, FORMATS[weights], lambda done, total: None)
    model = loaded.model.base_model.unload()
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay in fp32
        parameter.data = parameter.data.to(FORMATS[weights]).to(FORMATS[compute])
    precision = FP32 if compute == "fp32" else BF16
    return dataclasses.replace(loaded, model=model, precision=precision)


def texts(run: TrainedRun, records: Path, loaded: LoadedModel) -> Iterator[list[int]]:
    """Ids of the records, laid out as those that were trained on."""
    assert run.spec is not None
    entry = run.spec.data.datasets[0].model_copy(update={"path": str(records.resolve())})
    options = StrategyOptions.of(run.spec.data)
    for record in SourceReader(entry, Path(), loaded.tokenizer.tokenizer, options).read():
        yield from (row.input_ids for row in record.rows)


def answers(loaded: LoadedModel, probes: list[list[int]]) -> list[Tensor]:
    """Logits [T, V] of each text, in fp32 as they come."""
    with loaded.inference() as model:
        return [
            model(input_ids=torch.tensor([ids], device=loaded.device)).logits[0].float().cpu()
            for ids in probes
        ]


def report(name: str, logits: list[Tensor], others: list[Tensor]) -> None:
    """How often two models' first choices agree, and how near a tie those were that don't."""
    first, second = torch.cat([each.topk(2).values for each in logits]).unbind(-1)
    step = torch.exp2(first.abs().log2().floor() - 7)  # from one bf16 number to the next
    margin = (first - second) / step
    pairs = list(zip(logits, others, strict=True))
    is_same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in pairs])
    kl = torch.cat([_kl(a, b) for a, b in pairs]).mean().item()
    error = torch.cat([(a - b).abs().median(-1).values for a, b in pairs]) / step
    top_two = torch.cat([other.topk(2).values for other in others])
    is_tie = top_two[:, 0] == top_two[:, 1]
    flips = margin[~is_same]
    clear = is_same[margin > 2].float().mean().item()
    print(
        f"{name:<44} same {is_same.float().mean().item():7.3%}  KL {kl:.1e}  "
        f"flips {len(flips):3d}, margin <= 1 step {int((flips <= 1).sum()):3d}, "
        f"<= 2 steps {int((flips <= 2).sum()):3d}, tied in the other "
        f"{int((is_tie & ~is_same).sum()):3d}; beyond 2 steps same {clear:.3%}; "
        f"median logit error {error.median().item():.2g} steps; "
        f"all with margin <= 1 step {(margin <= 1).float().mean().item():.1%}",
        flush=True,
    )


def _kl(logits: Tensor, others: Tensor) -> Tensor:
    log_p, log_q = logits.log_softmax(-1), others.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


if __name__ == "__main__":
    main()

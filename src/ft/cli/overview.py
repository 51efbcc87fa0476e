"""A spec in a few lines, and an evaluation as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from ft.cli.labels import label_comparison
from ft.data.sources import find_local
from ft.spec import AdapterSpec, LoadedSpec, RunSpec
from ft.spec.methods import METHODS
from ft.spec.runspec import DatasetSpec, TrainingSpec


def overview(loaded: LoadedSpec) -> list[str]:
    """What a config will do, for `ft validate`."""
    spec = loaded.spec
    model, adapter, data, training = spec.model, spec.adapter, spec.data, spec.training
    bits = ", 4 bits" if model.load_in_4bit else ", 8 bits" if model.load_in_8bit else ""
    sets = [
        f"{entry.path} as {entry.type if isinstance(entry.type, str) else 'a mapping'}"
        for entry in data.datasets
    ]
    how = ", as a stream" if data.streaming else ""
    return [
        f"model:    {model.base_model}{bits}",
        f"method:   {_method(adapter)}",
        *[f"data:     {text}, up to {data.sequence_len} tokens a record{how}" for text in sets],
        f"training: {_length(spec, loaded.path.parent)}, {training.optimizer}, "
        f"{training.lr_scheduler} from {training.learning_rate:g}",
        f"          {records_per_step(training)} records a step "
        f"({training.micro_batch_size} x {training.gradient_accumulation_steps})",
        f"output:   {spec.output.output_dir}",
    ]


_SIZES = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "num_virtual_tokens": "virtual tokens",
    "adapter_len": "positions a layer",
}


def _method(adapter: AdapterSpec) -> str:
    """What is trained, with those of the sizes that it has."""
    if adapter.adapter is None:
        return "some parameters" if adapter.unfrozen_parameters else "all parameters"
    keys = METHODS[adapter.adapter].keys
    sizes = [f"{name} {getattr(adapter, key):g}" for key, name in _SIZES.items() if key in keys]
    return ", ".join([adapter.adapter, *sizes])


def records_per_step(training: TrainingSpec) -> int:
    """Records of an optimizer step on one device."""
    return training.micro_batch_size * training.gradient_accumulation_steps


def _length(spec: RunSpec, folder: Path) -> str:
    """How long it trains: in steps, where a record is a row and is counted without reading it."""
    training = spec.training
    if training.max_steps:
        return f"{training.max_steps} steps"
    epochs = f"{training.num_epochs:g} {'epoch' if training.num_epochs == 1 else 'epochs'}"
    counts = [_count_lines(entry, folder) for entry in spec.data.datasets]
    if not all(counts) or spec.data.mix_strategy != "concat":
        return epochs
    num_records = sum(count for count in counts if count)
    held_out = spec.data.val_set_size
    num_records -= int(held_out) if held_out > 1 else math.ceil(held_out * num_records)
    if training.sample_packing or any(entry.type == "completion" for entry in spec.data.datasets):
        return f"{epochs} of {num_records:,} records"
    num_steps = math.ceil(math.ceil(num_records / records_per_step(training)) * training.num_epochs)
    return f"{epochs} of {num_records:,} records = {num_steps:,} steps"


def _count_lines(entry: DatasetSpec, folder: Path) -> int | None:
    """Lines of a JSON lines file; None where records can't be counted so."""
    path = find_local(entry.path, folder)
    if path is None or not path.is_file() or path.suffix != ".jsonl":
        return None
    if entry.split and "[" in entry.split:
        return None
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def comparison(result: dict[str, Any]) -> Iterator[Table]:
    """Base beside tuned."""
    if "eval_loss" in result["tuned"]:
        yield from label_comparison(result)
        return
    table = Table(title=f"{result['num_heldout_records']} held-out records")
    table.add_column("")
    for name in ("base", "tuned"):
        table.add_column(name, justify="right")
    table.add_row("loss", *[f"{result[name]['loss']:.4f}" for name in ("base", "tuned")])
    for metric in ("exact_match", "normalized_exact_match"):
        if result["num_answered"]:  # records without a prompt have a loss alone
            values = [f"{100 * result[name][metric]:.1f} %" for name in ("base", "tuned")]
            table.add_row(f"{metric.replace('_', ' ')} ({result['num_answered']} answers)", *values)
    yield table

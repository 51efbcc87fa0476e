"""A spec in a few lines, and an evaluation as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ft.spec import RunSpec


def overview(spec: RunSpec) -> list[str]:
    """What a config will do, for `ft validate`."""
    model, adapter, data, training = spec.model, spec.adapter, spec.data, spec.training
    bits = ", 4 bits" if model.load_in_4bit else ", 8 bits" if model.load_in_8bit else ""
    method = (
        f"{adapter.adapter}, r {adapter.lora_r}, alpha {adapter.lora_alpha:g}, "
        f"dropout {adapter.lora_dropout:g}"
        if adapter.adapter
        else "all parameters"
    )
    per_step = training.micro_batch_size * training.gradient_accumulation_steps
    length = (
        f"{training.max_steps} steps" if training.max_steps else f"{training.num_epochs:g} epochs"
    )
    sets = [
        f"{entry.path} as {entry.type if isinstance(entry.type, str) else 'a mapping'}"
        for entry in data.datasets
    ]
    return [
        f"model:    {model.base_model}{bits}",
        f"method:   {method}",
        *[f"data:     {text}, up to {data.sequence_len} tokens a record" for text in sets],
        f"training: {length}, {training.optimizer}, {training.lr_scheduler} from "
        f"{training.learning_rate:g}, {per_step} records a step "
        f"({training.micro_batch_size} x {training.gradient_accumulation_steps})",
        f"output:   {spec.output.output_dir}",
    ]


def comparison(result: dict[str, Any]) -> Table:
    """Base beside tuned."""
    table = Table(title=f"{result['num_heldout_records']} held-out records")
    table.add_column("")
    for name in ("base", "tuned"):
        table.add_column(name, justify="right")
    table.add_row("loss", *[f"{result[name]['loss']:.4f}" for name in ("base", "tuned")])
    for metric in ("exact_match", "normalized_exact_match"):
        if result["num_answered"]:  # records without a prompt have a loss alone
            values = [f"{100 * result[name][metric]:.1f} %" for name in ("base", "tuned")]
            table.add_row(f"{metric.replace('_', ' ')} ({result['num_answered']} answers)", *values)
    return table

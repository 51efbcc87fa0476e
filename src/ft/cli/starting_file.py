"""The config that `ft init` writes: usual values for a method and an amount of data, explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft.cli.starting_data import Data
from ft.spec.conversion import Setting, write_yaml

METHODS = ("qlora", "lora", "full")
SCHEMA_FILE = "ft.schema.json"
_FEW, _MANY = 500, 50_000
"""Records; fewer are seen more often, more are seen once."""
_ENOUGH_TO_HOLD_OUT = 100
_RECORDS_A_STEP = {"few": 8, "usual": 16}


@dataclass(frozen=True)
class Plan:
    """The answers, all of them."""

    base_model: str
    data: Data
    method: str
    """One of METHODS."""
    output_dir: str


def write_config(plan: Plan, target: Path) -> str:
    """The text of the config.

    Args:
        plan: The answers.
        target: Where it will stand, beside which the editor's schema is looked for.
    """
    settings = {**_model(plan), **_data(plan.data), **_adapter(plan.method), **_training(plan)}
    settings |= _evaluation(plan) | _output(plan)
    return write_yaml(settings, _header(target))


def _header(target: Path) -> list[str]:
    if (target.parent / SCHEMA_FILE).exists():
        lines = [f"yaml-language-server: $schema={SCHEMA_FILE}"]
    else:
        lines = [
            f"Editors complete and check the keys after: ft schema > {SCHEMA_FILE}",
            f"with this as the first line: yaml-language-server: $schema={SCHEMA_FILE}",
        ]
    return [*lines, "", f"ft train {target.name}      ft explain KEY tells more about any key"]


def _model(plan: Plan) -> dict[str, Setting]:
    settings = {"base_model": Setting(plan.base_model, "hub name or folder")}
    if plan.method == "qlora":
        settings["load_in_4bit"] = Setting(
            True, "the frozen base in 4 bits: a quarter of the memory"
        )
    return settings


def _data(data: Data) -> dict[str, Setting]:
    layout = dict(data.layout or {})
    remark = data.finding.partition(" -> ")[0]
    entry: dict[str, Any] = {"path": Setting(data.path, remark)}
    entry |= layout
    if isinstance(layout.get("type"), str):
        entry["type"] = Setting(layout["type"], _REMARKS_ON_TYPES.get(layout["type"], ""))
    elif isinstance(layout.get("type"), dict):
        entry["type"] = Setting(
            layout["type"], "the prompt in your own words; `ft preview` shows it"
        )
    settings = {"datasets": Setting([entry])}
    held_out = data.num_records is None or data.num_records >= _ENOUGH_TO_HOLD_OUT
    settings["val_set_size"] = (
        Setting(0.05, "held out, to measure on records that it never saw")
        if held_out
        else Setting(0, "too few to hold some out; 0.05 keeps a twentieth for measuring")
    )
    settings["sequence_len"] = Setting(data.sequence_len, "tokens; longer records are dropped")
    return settings


_REMARKS_ON_TYPES: Mapping[str, str] = {
    "alpaca": "### Instruction: ... ### Response: ...",
    "chat_template": "the model's own chat format; a base model may need chat_template: chatml",
    "completion": "plain text, trained from its first token to the last",
    "context_qa.load_v2": "Context: ... Question: ... -> Answer: ...",
}


def _adapter(method: str) -> dict[str, Setting]:
    if method == "full":
        return {}
    return {
        "adapter": Setting(method, "a small addition is trained, the base stays as it is"),
        "lora_r": Setting(16, "size of the addition: 8 to 64"),
        "lora_alpha": Setting(32, "its strength: twice the size is usual"),
        "lora_dropout": Setting(0.05, "0.05 to 0.1 against learning few records by heart"),
        "lora_target_linear": Setting(
            True, "on every linear layer; learns more than attention alone"
        ),
    }


def _training(plan: Plan) -> dict[str, Setting]:
    num_records = plan.data.num_records
    is_few = num_records is not None and num_records < _FEW
    epochs = 3 if num_records is None or num_records < _MANY else 1
    records_a_step = _RECORDS_A_STEP["few" if is_few else "usual"]
    rate = 2e-5 if plan.method == "full" else 2e-4
    others = "1e-5 to 5e-5" if plan.method == "full" else "1e-4 to 3e-4"
    return {
        "micro_batch_size": Setting(2, "records at once; halve it if memory runs out ..."),
        "gradient_accumulation_steps": Setting(
            records_a_step // 2, f"... and double this: {records_a_step} records a step stay"
        ),
        "num_epochs": Setting(epochs, "passes over the data; more than 3 rarely helps"),
        "learning_rate": Setting(rate, f"{others} are usual for this method"),
        "lr_scheduler": Setting("cosine"),
        "warmup_ratio": Setting(0.03, "share of the steps in which the rate rises"),
        "gradient_checkpointing": Setting(True, "recompute layers, as many as memory asks for"),
        "bf16": Setting("auto", "bfloat16 where the card has it"),
    }


def _evaluation(plan: Plan) -> dict[str, Setting]:
    num_records = plan.data.num_records
    if num_records is not None and num_records < _ENOUGH_TO_HOLD_OUT:
        return {}
    return {"evals_per_epoch": Setting(4, "held-out loss: it should fall, then level out")}


def _output(plan: Plan) -> dict[str, Setting]:
    return {
        "output_dir": Setting(plan.output_dir),
        "logging_steps": Setting(1 if (plan.data.num_records or _MANY) < _FEW else 10),
        "saves_per_epoch": Setting(1, "checkpoints; the same command goes on from the last one"),
    }

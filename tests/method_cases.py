"""Every way to tune, as the keys of a tiny run; docs/methods.md says what these tests ran.

PYTHONPATH=src:tests python -m method_cases docs/methods.md     puts its table in place
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ft.runtime.errors import UserError
from ft.spec import load_spec
from ft.spec.methods import METHODS
from ft.spec.runspec import RunSpec

_LORA = {"lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
_RANK = {"lora_r": 4, "lora_target_linear": True}
_TARGETS = {"lora_target_linear": True}
_PROMPT = {"num_virtual_tokens": 4}

CASES: dict[str, dict[str, Any]] = {
    "all parameters": {},
    "the head alone": {"unfrozen_parameters": ["lm_head.*"]},
    "LoRA": {"adapter": "lora", **_LORA},
    "rsLoRA": {"adapter": "lora", "peft_use_rslora": True, **_LORA},
    "DoRA": {"adapter": "lora", "peft_use_dora": True, **_LORA},
    "LoRA+": {"adapter": "lora", "loraplus_lr_ratio": 4, **_LORA},
    "PiSSA": {"adapter": "lora", "peft_init_lora_weights": "pissa", **_LORA},
    "PiSSA, roughly": {"adapter": "lora", "peft_init_lora_weights": "pissa_niter_4", **_LORA},
    "OLoRA": {"adapter": "lora", "peft_init_lora_weights": "olora", **_LORA},
    "orthogonal LoRA": {"adapter": "lora", "peft_init_lora_weights": "orthogonal", **_LORA},
    "LoftQ": {
        "adapter": "lora",
        "peft_init_lora_weights": "loftq",
        "load_in_4bit": True,
        **_LORA,
    },
    "AdaLoRA": {"adapter": "adalora", "init_r": 6, **_LORA},
    "IA3": {"adapter": "ia3"},
    "VeRA": {"adapter": "vera", **_RANK},
    "OFT": {"adapter": "oft", "oft_block_size": 16, **_TARGETS},
    "BOFT": {"adapter": "boft", **_TARGETS},
    "HRA": {"adapter": "hra", **_RANK},
    "LoHa": {"adapter": "loha", **_LORA},
    "LoKr": {"adapter": "lokr", **_LORA},
    "FourierFT": {"adapter": "fourierft", "n_frequency": 50, **_TARGETS},
    "prefix tuning": {
        "adapter": "prefix_tuning",
        "prefix_projection": True,
        "encoder_hidden_size": 32,
        **_PROMPT,
    },
    "P-tuning v2": {"adapter": "p_tuning_v2", **_PROMPT},
    "prompt tuning": {"adapter": "prompt_tuning", **_PROMPT},
    "prompt tuning, from a text": {
        "adapter": "prompt_tuning",
        "prompt_tuning_init_text": "How many heads?",
        **_PROMPT,
    },
    "P-tuning": {"adapter": "p_tuning", "encoder_hidden_size": 32, **_PROMPT},
    "P-tuning, LSTM": {
        "adapter": "p_tuning",
        "encoder_reparameterization_type": "LSTM",
        "encoder_hidden_size": 32,
        **_PROMPT,
    },
    "LLaMA-Adapter": {"adapter": "llama-adapter", "adapter_len": 4, "adapter_layers": 2},
}

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"load_in_4bit": False},
    "8 bits": {"load_in_8bit": True, "load_in_4bit": False},
    "4 bits": {"load_in_4bit": True},
    "recomputed": {"gradient_checkpointing": "always"},
    "packed": {"sample_packing": True},
    "labels": {"task_type": "SEQ_CLS", "datasets": [{"path": "x", "type": "classification"}]},
}
"""What a way to tune is combined with; the columns of the table."""


def config_of(name: str, setting: str, **keys: Any) -> dict[str, Any]:
    """The keys of a cell, beside those that every run has."""
    own = {**CASES[name], **SETTINGS[setting]}
    if (name, setting) == ("the head alone", "labels"):
        own["unfrozen_parameters"] = ["score.*"]
    return {**own, **keys}


def cells() -> Iterator[tuple[str, str]]:
    """Every combination."""
    return ((name, setting) for name in CASES for setting in SETTINGS)


def read(keys: dict[str, Any]) -> RunSpec:
    """The cell as `ft` reads it, or its refusal."""
    small = {"base_model": "a/b", "learning_rate": 0.01, "datasets": ["x"], **keys}
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(small, file)
        file.flush()
        return load_spec(Path(file.name)).spec


def is_accepted(name: str, setting: str) -> bool:
    """Whether `ft` trains the cell, or refuses it before anything is loaded."""
    try:
        read(config_of(name, setting))
    except UserError:
        return False
    return True


ACCEPTED = [cell for cell in cells() if is_accepted(*cell)]
REFUSED = [cell for cell in cells() if cell not in ACCEPTED]


def table() -> str:
    """The combinations as Markdown: those that ran, and those that are refused."""
    rows = [["way to tune", *SETTINGS, "`ft merge`"], ["---"] * (len(SETTINGS) + 2)]
    for name in CASES:
        marks = ["yes" if (name, setting) in ACCEPTED else "refused" for setting in SETTINGS]
        rows.append([name, *marks, _merge(name)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _merge(name: str) -> str:
    adapter = CASES[name].get("adapter")
    if adapter is None:
        return "is a model"
    method = METHODS.get(adapter) or METHODS["prefix_tuning"]
    return "yes" if method.is_merged else "refused"


BEGIN, END = "<!-- the table is made by tests/method_cases.py -->", "<!-- end of the table -->"


def with_table(page: str) -> str:
    """The page with today's table between its marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text("utf-8")), "utf-8")

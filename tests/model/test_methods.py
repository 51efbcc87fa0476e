"""Every way to tune: it trains, goes on bit for bit, and is what peft loads.

And every combination of the table in docs/methods.md: it learns, or is refused; what can be merged
computes the same when it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
)

import method_cases
from ft.data.batches import Padded, join
from ft.evaluate.objective import Penalized, SupervisedTuning
from ft.evaluate.trained import open_run
from ft.model import Hardware, Precision, build_model, load_tokenizer, load_trained
from ft.runtime.errors import Interrupted
from ft.ship.merge_layers import merge_layers
from ft.spec.methods import METHODS
from ft.train.optimizer import build_optimizer
from runs import curve, events, run, stop_after, write_config, write_label_config

CPU = Hardware("cpu", supports_bf16=True)
IDS = torch.arange(3, 35)[None]
STEPS = {"max_steps": 6, "num_records": 8, "save_strategy": "no", "val_set_size": 0.25}
WITHOUT_LORA = dict.fromkeys(["adapter", "lora_r", "lora_alpha", "lora_target_linear"])


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def as_peft_loads_it(base, out, keys):
    """What the files are without ft."""
    kind, options = AutoModelForCausalLM, {}
    if "task_type" in keys:
        kind, options = AutoModelForSequenceClassification, {"num_labels": 2}
    if "adapter" not in keys:
        return kind.from_pretrained(out)
    if keys.get("load_in_4bit"):
        nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        quantization = BitsAndBytesConfig(load_in_4bit=True, **nf4)
        options |= {"quantization_config": quantization, "device_map": "cpu"}
    model = kind.from_pretrained(base, **options)
    return PeftModel.from_pretrained(model, str(out))


def weights_of(out):
    (file,) = out.glob("*model.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", method_cases.CASES)
def test_it_trains_goes_on_bit_for_bit_and_peft_loads_it(name, tmp_path, tiny_llama):
    keys = method_cases.CASES[name]
    for folder in ("straight", "stopped"):
        (tmp_path / folder).mkdir()
        write_config(tmp_path / folder, tiny_llama, **(WITHOUT_LORA | STEPS | keys))
    run(tmp_path / "straight" / "run.yml")
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped" / "run.yml", on_event=stop_after(3))
    run(tmp_path / "stopped" / "run.yml")
    out, again = tmp_path / "straight" / "out", tmp_path / "stopped" / "out"
    assert curve(again) == curve(out)
    heldout = [event["eval_loss"] for event in events(out, "evaluation")]
    assert heldout[-1] < heldout[0]
    weights, resumed = weights_of(out), weights_of(again)
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
    with open_run(out).load().inference() as model:
        ours = logits_of(model)
    theirs = logits_of(as_peft_loads_it(tiny_llama, out, keys).eval())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Row:
    input_ids: np.ndarray
    labels: np.ndarray


ROWS = [
    Row(np.arange(start, start + length, dtype=np.int32), np.arange(start, start + length))
    for start, length in ((5, 12), (40, 7), (90, 9))
]


class Trained:
    """A few steps of a cell of the table, with the parts that a run has, and without its files."""

    def __init__(self, base: Path, name: str, setting: str, num_steps: int = 3):
        keys = method_cases.config_of(name, setting, base_model=str(base))
        self.spec = method_cases.read(keys)
        training = self.spec.training
        self.loaded = build_model(
            self.spec.model,
            self.spec.adapter,
            Precision(),
            None,
            load_tokenizer(self.spec.model),
            hardware=CPU,
            seed=1,
            gradient_checkpointing=bool(training.gradient_checkpointing),
        )
        attached = self.loaded.attached
        attached.begin(num_steps)
        layout = Padded(self.loaded.tokenizer.tokenizer.pad_token_id, attached.num_leading_logits)
        self.objective = Penalized(SupervisedTuning(layout), attached.penalty)
        named = self.loaded.trainable_parameters()
        optimizer = build_optimizer(training, named, torch.device("cpu"))
        batch = layout.batch([join(ROWS)] if training.sample_packing else ROWS)
        self.losses = []
        for step in range(num_steps):
            loss = self.objective.loss_sum(self.loaded.model, batch) / 25
            loss.backward()
            optimizer.step()
            attached.after_update(step)
            optimizer.zero_grad()
            self.losses.append(loss.item())

    def logits(self):
        with self.loaded.inference() as model:
            return logits_of(model)

    def merged(self, folder: Path):
        """On what the base's bits stand for, by the layer, as `ft merge` does it."""
        self.loaded.save_weights(folder)
        self.loaded.tokenizer.tokenizer.save_pretrained(folder)
        plain = load_trained(
            folder,
            self.spec.model,
            self.spec.adapter,
            Precision(),
            hardware=CPU,
            form="dequantized",
        )
        merge_layers(plain.model, torch.float32, lambda done, total: None)
        return plain.model.base_model.unload()


@pytest.mark.parametrize("name", [n for n, s in method_cases.ACCEPTED if s == "labels"])
def test_it_learns_labels_and_peft_loads_it(name, tmp_path, tiny_llama):
    keys = method_cases.config_of(name, "labels", max_steps=4, num_records=12, val_set_size=4)
    del keys["datasets"]
    keys |= {} if "adapter" in keys else {"learning_rate": 1e-3}
    run(write_label_config(tmp_path, tiny_llama, **(WITHOUT_LORA | keys)))
    out = tmp_path / "out"
    heldout = [event["eval_loss"] for event in events(out, "evaluation")]
    assert heldout[-1] < heldout[0]
    with open_run(out).load().inference() as model:
        ours = logits_of(model)
    theirs = logits_of(as_peft_loads_it(tiny_llama, out, keys).eval())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


TEXTS = [(name, setting) for name, setting in method_cases.ACCEPTED if setting != "labels"]


@pytest.mark.parametrize(("name", "setting"), TEXTS)
def test_every_combination_of_the_table_learns_and_merges(name, setting, tmp_path, tiny_llama):
    trained = Trained(tiny_llama, name, setting)
    assert trained.losses[-1] < trained.losses[0]
    adapter = trained.spec.adapter.adapter
    if setting in ("plain", "8 bits", "4 bits") and adapter and METHODS[adapter].is_merged:
        expected = trained.logits()
        tolerance = 3e-2 if setting == "8 bits" else 1e-4  # int8 rounds activations too
        largest = expected.abs().max().item()
        merged = logits_of(trained.merged(tmp_path).eval())
        torch.testing.assert_close(merged, expected, rtol=0, atol=tolerance * largest)


def test_the_table_in_the_docs_is_today_s():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    written = page.read_text("utf-8")
    command = "PYTHONPATH=src:tests python -m method_cases docs/methods.md"
    assert written == method_cases.with_table(written), f"run: {command}"

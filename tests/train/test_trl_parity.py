"""Ours = TRL's SFTTrainer: the same batches, the same adapter, the same loss at every step."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft.data.stream import prepare_training_data
from ft.model import load_tokenizer
from ft.spec import load_spec
from runs import curve, run, write_config

NUM_STEPS = 50
ROWS = (2, 2)
"""micro_batch_size, gradient_accumulation_steps."""


def save_new_adapter(base, folder):
    """One that both go on from."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    model.save_pretrained(folder)
    return folder


def rows_of_our_steps(config):
    """Ids and labels, in the order in which `ft train` comes to them."""
    spec = load_spec(config).spec
    data = prepare_training_data(
        spec.data,
        tokenizer=load_tokenizer(spec.model).tokenizer,
        seed=spec.training.seed,
        base_dir=config.parent,
    )
    feed = data.feed(spec.training, sequence_len=spec.data.sequence_len, num_processes=1)
    steps = (feed.rows_of(step) for step in range(NUM_STEPS))
    records = (record for rows in steps for row in rows for record in row)
    return [
        {"input_ids": record.input_ids.tolist(), "labels": record.labels.tolist()}
        for record in records
    ]


def losses_of_trl(trl, base, adapter, records, folder, *, learning_rate, rows):
    from datasets import Dataset

    base_model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        max_steps=NUM_STEPS,
        per_device_train_batch_size=rows[0],
        gradient_accumulation_steps=rows[1],
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = trl.SFTTrainer(
        model=PeftModel.from_pretrained(base_model, adapter, is_trainable=True),
        args=arguments,
        train_dataset=Dataset.from_list(records),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def compare(tmp_path, base, trl, *, learning_rate, num_records, rows=ROWS):
    adapter = save_new_adapter(base, tmp_path / "adapter")
    config = write_config(
        tmp_path, base, num_records=num_records, lora_model_dir=str(adapter), lora_r=8,
        lora_alpha=16, max_steps=NUM_STEPS, learning_rate=learning_rate, save_strategy="no",
        micro_batch_size=rows[0], gradient_accumulation_steps=rows[1],
    )  # fmt: skip
    run(config)
    ours = [loss for _, loss, _, _ in curve(tmp_path / "out")]
    theirs = losses_of_trl(
        trl, base, adapter, rows_of_our_steps(config), tmp_path / "trl",
        learning_rate=learning_rate, rows=rows,
    )  # fmt: skip
    assert len(ours) == len(theirs) == NUM_STEPS
    assert ours[-1] < 0.9 * ours[0], "there is a curve to compare"
    gap = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    return gap


@pytest.fixture
def trl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("trl", reason="trl is not installed: pip install trl")


@pytest.mark.filterwarnings("ignore")  # TRL's own, and those of what it imports
def test_the_loss_curve_is_that_of_trl(tmp_path, tiny_llama, trl):
    # TRL's log is rounded to four digits or so, which is far below half a percent.
    gap = compare(tmp_path, tiny_llama, trl, learning_rate=1e-2, num_records=4 * NUM_STEPS)
    assert gap < 0.005, f"largest relative difference of {NUM_STEPS} steps"


@pytest.mark.real_weights
@pytest.mark.filterwarnings("ignore")
def test_the_loss_curve_on_real_weights_is_that_of_trl(tmp_path, trl):
    base = Path(os.environ["FT_SMOLLM2"])
    gap = compare(tmp_path, base, trl, learning_rate=1e-3, num_records=NUM_STEPS, rows=(1, 1))
    assert gap < 0.005, f"largest relative difference of {NUM_STEPS} steps"

"""SmolLM2-135M, real text: the loss falls, and the end token is learned (pad == eos here)."""

import os
from pathlib import Path

import pytest

from ft.evaluate.answer import open_answerer
from ft.evaluate.generate import Sampling
from ft.evaluate.trained import open_run
from runs import curve, events, run, write_config, write_label_config


@pytest.mark.real_weights
def test_a_few_steps_on_real_weights(tmp_path):
    base = Path(os.environ["FT_SMOLLM2"])
    config = write_config(
        tmp_path, base, num_records=24, num_epochs=3, lora_r=16, lora_alpha=32, learning_rate=1e-3,
        micro_batch_size=4, gradient_accumulation_steps=1, eval_strategy="epoch", val_set_size=4,
    )  # fmt: skip
    run(config)
    losses = [event["eval_loss"] for event in events(tmp_path / "out", "evaluation")]
    assert losses[-1] < losses[0] / 2
    assert curve(tmp_path / "out")[-1][1] < 1
    answerer = open_answerer(open_run(tmp_path / "out"))
    prompt = answerer.prompt(
        {"context": "CREATE TABLE t5 (c0 INTEGER)"}, text="What is the largest city? 5"
    )
    answer = answerer.answer(prompt, Sampling(max_new_tokens=64))
    assert answer.startswith("SELECT COUNT(*) FROM t5")
    assert len(answer) < 60, "it stops by itself"


@pytest.mark.real_weights(folder="FT_MINILM")
def test_a_pretrained_encoder_tells_reviews_apart(tmp_path):
    """MiniLM on 1,000 short reviews: FT_REVIEWS names the file of records {text, label}."""
    config = write_label_config(
        tmp_path, Path(os.environ["FT_MINILM"]), num_epochs=3, lora_r=16, lora_alpha=32,
        learning_rate=1e-3, micro_batch_size=16, gradient_accumulation_steps=1, sequence_len=64,
        datasets=[{"path": os.environ["FT_REVIEWS"], "type": "classification"}],
        val_set_size=336, eval_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="accuracy", seed=42,
    )  # fmt: skip
    run(config)
    first, *later = [each["eval_accuracy"] for each in events(tmp_path / "out", "evaluation")]
    assert max(later) >= 0.72
    assert max(later) >= first + 0.18

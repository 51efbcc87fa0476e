"""NEFTune's noise is the paper's: each record by its own length, while training, from the seed."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ft.data.batches import Flat, Padded, join
from ft.evaluate.noise import WithEmbeddingNoise, record_lengths_by_token
from ft.evaluate.objective import SupervisedTuning
from ft.model.attention import VARLEN
from ft.model.varlen import register_varlen
from ft.runtime import Interrupted
from runs import curve, run, stop_after, write_config

PAD = 2
ALPHA = 5.0


@dataclass
class Row:
    input_ids: np.ndarray
    labels: np.ndarray


def make_rows(lengths):
    rng = np.random.default_rng(0)
    drawn = [rng.integers(3, 400, length).astype(np.int32) for length in lengths]
    return [Row(ids, np.where(np.arange(len(ids)) < 2, -100, ids)) for ids in drawn]


@pytest.fixture
def model(tiny_llama):
    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).train()


def seen_noise(model, layout, rows):
    """What is added to the embeddings of a batch, and each token's record length."""
    embedding = model.get_input_embeddings()
    seen = []
    objective = WithEmbeddingNoise(SupervisedTuning(layout), embedding, ALPHA)
    batch = layout.batch(rows)
    clean = embedding(batch.inputs["input_ids"])
    watch = model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with watch:
        objective.loss_sum(model, batch)
    return (seen[0] - clean).detach(), record_lengths_by_token(batch.inputs)


@pytest.mark.parametrize("kind", ["padded", "packed", "flat"])
def test_the_noise_reaches_as_far_as_the_paper_says_for_each_record(tiny_llama, kind):
    register_varlen()
    model = AutoModelForCausalLM.from_pretrained(
        tiny_llama, dtype=torch.float32, attn_implementation=VARLEN if kind == "flat" else "sdpa"
    ).train()
    rows = make_rows([4, 100])
    if kind == "packed":
        rows = [join(rows), make_rows([50])[0]]
    layout = Flat(128) if kind == "flat" else Padded(PAD)
    noise, lengths = seen_noise(model, layout, rows)
    assert {4, 100} <= set(lengths.flatten().tolist())
    for length in (4, 100):
        reach = ALPHA / math.sqrt(length * 64)
        of_record = noise[lengths == length]
        assert of_record.abs().max() <= reach * 1.0001
        assert of_record.abs().max() >= reach * 0.95  # uniform: some value comes near the bound
        assert of_record.std() == pytest.approx(reach / math.sqrt(3), rel=0.1)
        assert of_record.mean() == pytest.approx(0, abs=reach / 5)


def test_the_loss_is_that_of_embeddings_with_noise_written_by_hand(model):
    rows = make_rows([12, 7])
    layout = Padded(PAD)
    batch = layout.batch(rows)
    objective = WithEmbeddingNoise(SupervisedTuning(layout), model.get_input_embeddings(), ALPHA)
    torch.manual_seed(3)
    ours = objective.loss_sum(model, batch)
    torch.manual_seed(3)
    embedded = model.get_input_embeddings()(batch.inputs["input_ids"])
    lengths = torch.tensor([[12.0], [7.0]])
    noise = torch.empty_like(embedded).uniform_(-1, 1) * ALPHA / (lengths * 64).sqrt()[..., None]
    inputs = {k: v for k, v in batch.inputs.items() if k != "input_ids"}
    logits = model(inputs_embeds=embedded + noise, **inputs).logits
    by_hand = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )
    torch.testing.assert_close(ours, by_hand)


def test_what_is_measured_has_no_noise_and_no_hook_stays(model):
    rows = make_rows([12, 7])
    plain = SupervisedTuning(Padded(PAD))
    noisy = WithEmbeddingNoise(plain, model.get_input_embeddings(), ALPHA)
    batch = plain.layout.batch(rows)
    assert noisy.loss_sum(model, batch) != plain.loss_sum(model, batch)
    model.eval()
    assert torch.equal(noisy.loss_sum(model, batch), plain.loss_sum(model, batch))
    assert not model.get_input_embeddings()._forward_hooks
    assert noisy.weight(rows[0]) == plain.weight(rows[0])


def test_smoothing_is_transformers_and_only_while_training(model):
    from transformers.trainer_pt_utils import LabelSmoother

    rows = make_rows([12, 12])
    objective = SupervisedTuning(Padded(PAD), label_smoothing=0.1)
    batch = objective.layout.batch(rows)
    ours = objective.loss_sum(model, batch) / sum(map(objective.weight, rows))
    ids, labels = (
        torch.from_numpy(np.stack([getattr(row, name) for row in rows])).long()
        for name in ("input_ids", "labels")
    )
    output = model(input_ids=ids)
    theirs = LabelSmoother(0.1)({"logits": output.logits}, labels, shift_labels=True)
    torch.testing.assert_close(ours, theirs)
    model.eval()
    plain = SupervisedTuning(Padded(PAD))
    assert torch.equal(objective.loss_sum(model, batch), plain.loss_sum(model, batch))


def test_a_run_with_noise_and_smoothing_goes_on_bit_for_bit(tmp_path, tiny_llama):
    keys = {
        "noisy_embedding_alpha": 5.0,  # its old name
        "label_smoothing_factor": 0.1,
        "sample_packing": True,
        "val_set_size": 3,
        "eval_steps": 2,
        "max_steps": 4,
        "gradient_accumulation_steps": 1,
    }
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    run(write_config(tmp_path / "straight", tiny_llama, **keys))
    stopped = write_config(tmp_path / "stopped", tiny_llama, **keys)
    with pytest.raises(Interrupted):
        run(stopped, on_event=stop_after(2))
    run(stopped)
    assert curve(tmp_path / "stopped" / "out") == curve(tmp_path / "straight" / "out")

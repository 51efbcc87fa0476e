"""The loss is what transformers computes, and does not depend on the layout."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ft.data.batches import Flat, Padded
from ft.evaluate.objective import SupervisedTuning, held_out_loss
from ft.model.attention import VARLEN
from ft.model.varlen import register_varlen

PAD = 2


@dataclass
class Row:
    input_ids: np.ndarray
    labels: np.ndarray


def make_rows(lengths, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        ids = rng.integers(3, 400, length).astype(np.int32)
        labels = ids.copy()
        labels[: length // 2] = -100
        rows.append(Row(ids, labels))
    return rows


@pytest.fixture
def load(tiny_llama):
    def load(attention="sdpa"):
        register_varlen()
        return AutoModelForCausalLM.from_pretrained(
            tiny_llama, dtype=torch.float32, attn_implementation=attention
        )

    return load


def gradients(model, objective, rows):
    model.zero_grad()
    loss = objective.loss_sum(model, objective.layout.batch(rows))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def test_equals_transformers_loss(load):
    model, rows = load(), make_rows([12, 12])
    objective = SupervisedTuning(Padded(PAD))
    ours = objective.loss_sum(model, objective.layout.batch(rows))
    ids = torch.tensor(np.stack([row.input_ids for row in rows]), dtype=torch.long)
    labels = torch.tensor(np.stack([row.labels for row in rows]), dtype=torch.long)
    theirs = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(ours / sum(map(objective.weight, rows)), theirs)


def test_flat_equals_padded_in_loss_and_gradients(load):
    """No pad tokens, the same numbers: 1e-5 in fp32."""
    rows = make_rows([3, 17, 9, 30, 2])
    padded, expected = gradients(load("sdpa"), SupervisedTuning(Padded(PAD)), rows)
    flat, got = gradients(load(VARLEN), SupervisedTuning(Flat(30)), rows)
    torch.testing.assert_close(flat, padded, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_is_the_sum_of_its_rows(load):
    """Rows beside each other do not see each other, padded or not."""
    rows = make_rows([3, 17, 9])
    for attention, layout in (("sdpa", Padded(PAD)), (VARLEN, Flat(30))):
        model, objective = load(attention), SupervisedTuning(layout)
        together, _ = gradients(model, objective, rows)
        alone = sum(gradients(model, objective, [row])[0] for row in rows)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_logits_are_made_only_where_something_is_trained(load):
    rows = make_rows([20, 20])
    batch = Flat(20).batch(rows)
    logits = load(VARLEN)(**batch.inputs).logits
    assert logits.shape[:2] == batch.targets.shape == (1, 20)


def test_held_out_loss_is_the_mean_over_tokens_whatever_the_batches(load):
    model, rows = load(), make_rows([3, 17, 9, 30, 2])
    objective = SupervisedTuning(Padded(PAD))
    losses = [
        held_out_loss(objective, model, rows, batch_size=size, device=torch.device("cpu"))
        for size in (1, 2, 5)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert losses[0] == pytest.approx(np.log(500), rel=0.1)
    assert model.training is False


def test_the_first_token_of_a_record_is_never_predicted():
    row = Row(np.arange(4, dtype=np.int32), np.arange(4, dtype=np.int32))
    assert SupervisedTuning(Padded(PAD)).weight(row) == 3

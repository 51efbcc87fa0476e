"""Weighted records against a mean written by hand, and against records that are there twice."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ft.data.batches import Flat, Padded
from ft.evaluate.compare import compare_with_base
from ft.evaluate.objective import SupervisedTuning
from ft.evaluate.token_losses import CrossEntropy, PerTokenTuning
from ft.model.attention import VARLEN
from ft.model.varlen import register_varlen
from ft.runtime import RunDirectory
from runs import curve, events, run, write_config

PAD = 2


@dataclass
class Row:
    input_ids: np.ndarray
    labels: np.ndarray
    values: dict = field(default_factory=dict)


def make_rows(weights, lengths=(12, 7, 9)):
    rng = np.random.default_rng(0)
    rows = []
    for length, weight in zip(lengths, weights, strict=True):
        ids = rng.integers(3, 400, length).astype(np.int32)
        labels = np.where(np.arange(length) < 3, -100, ids).astype(np.int32)
        values = {} if weight is None else {"weight": np.full(length, weight, np.float32)}
        rows.append(Row(ids, labels, values))
    return rows


def mean_of(model, objective, rows):
    model.zero_grad()
    batch = objective.layout.batch(rows)
    loss = objective.loss_sum(model, batch) / sum(map(objective.weight, rows))
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.fixture(params=["padded", "flat"])
def both(request, tiny_llama):
    """A model in training mode, and the layout for it."""
    register_varlen()
    is_flat = request.param == "flat"
    model = AutoModelForCausalLM.from_pretrained(
        tiny_llama, dtype=torch.float32, attn_implementation=VARLEN if is_flat else "sdpa"
    )
    return model.train(), Flat(64) if is_flat else Padded(PAD)


def test_it_is_the_weighted_mean_written_by_hand(both):
    model, layout = both
    weights = [2.0, 0.5, 1.0]
    rows = make_rows(weights)
    got, _ = mean_of(model, PerTokenTuning(layout, CrossEntropy()), rows)
    plain = SupervisedTuning(layout)
    sums = [plain.loss_sum(model, layout.batch([row])).item() for row in rows]
    counts = [plain.weight(row) for row in rows]
    by_hand = np.dot(weights, sums) / np.dot(weights, counts)
    assert float(got) == pytest.approx(by_hand, rel=1e-5)


def test_a_weight_of_2_is_the_record_twice_in_loss_and_gradient(both):
    model, layout = both
    weighted, gradient = mean_of(
        model, PerTokenTuning(layout, CrossEntropy()), make_rows([2, None, 1])
    )
    rows = make_rows([None] * 3)
    twice, expected = mean_of(model, SupervisedTuning(layout), [rows[0], *rows])
    torch.testing.assert_close(weighted, twice)
    for name, tensor in expected.items():
        torch.testing.assert_close(gradient[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_without_weights_it_is_supervised_tuning(both):
    model, layout = both
    rows = make_rows([None] * 3)
    one, _ = mean_of(model, PerTokenTuning(layout, CrossEntropy(0.1)), rows)
    other, _ = mean_of(model, SupervisedTuning(layout, label_smoothing=0.1), rows)
    torch.testing.assert_close(one, other)


def test_a_run_of_weighted_records(tmp_path, tiny_llama):
    """Every record counts 2: the run of records that count 1, bit for bit but for the sums."""
    import json

    losses = []
    for name, keys in (("plain", {}), ("weighted", {"field_weight": "w"})):
        (tmp_path / name).mkdir()
        config = write_config(tmp_path / name, tiny_llama, max_steps=2, num_records=8)
        data = tmp_path / name / "data.jsonl"
        records = [json.loads(line) | {"w": 2} for line in data.read_text().splitlines()]
        data.write_text("\n".join(map(json.dumps, records)))
        entry = {"path": str(data), "type": "context_qa.load_v2", **keys}
        config = write_config_again(config, datasets=[entry])
        run(config)
        losses.append([loss for _, loss, _, _ in curve(tmp_path / name / "out")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_ft_eval_weighs_held_out_records_as_the_run_did(tmp_path, tiny_llama):
    import json

    config = write_config(tmp_path, tiny_llama, max_steps=2, num_records=12, val_set_size=4)
    data = tmp_path / "data.jsonl"
    lines = enumerate(data.read_text().splitlines())
    data.write_text(
        "\n".join(json.dumps(json.loads(line) | {"w": 1 + 9 * (i % 2)}) for i, line in lines)
    )
    entry = {"path": str(data), "type": "context_qa.load_v2", "field_weight": "w"}
    run(write_config_again(config, datasets=[entry]))
    directory = RunDirectory(tmp_path / "out")
    told = events(tmp_path / "out", "evaluation")[-1]["eval_loss"]
    result = compare_with_base(
        directory, num_records=1, batch_size=2, max_new_tokens=2, trusts_code=False,
        on_event=lambda event: None,
    )  # fmt: skip
    assert result["tuned"]["loss"] == pytest.approx(told, rel=1e-4)


def write_config_again(config, **keys):
    import yaml

    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | keys))
    return config

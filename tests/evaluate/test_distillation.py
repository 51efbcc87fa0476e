"""Distillation against a definition written by hand, and from a file to a run."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import tiny
from ft.data.batches import Padded, join
from ft.data.prepare import prepare_data
from ft.evaluate.token_losses import CrossEntropy, Distilled, Scored
from ft.runtime import UserError
from ft.spec import load_spec
from runs import curve, run, write_config

SCRIPT = Path(__file__).parents[2] / "examples" / "distillation" / "teacher_logprobs.py"
ENTRIES = [[[5, -0.1], [9, -3.0]], [[7, -0.2]], []]
RECORD = {"input_ids": [3, 4, 5, 7, 2], "labels": [-100, -100, 5, 7, 2]}


def by_hand(logits, targets, teacher, *, kd_alpha, ce_alpha, temperature):
    """Token by token, from {id: logprob}."""
    losses = []
    for row, target, said in zip(logits, targets, teacher, strict=True):
        loss = -ce_alpha * row.log_softmax(-1)[target]
        student = (row / temperature).log_softmax(-1)
        weights = {token: np.exp(value / temperature) for token, value in said.items()}
        for token, weight in weights.items():
            share = weight / sum(weights.values())
            loss = loss + kd_alpha * share * (np.log(share) - student[token])
        losses.append(loss)
    return torch.stack(losses)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_one_written_by_hand_and_so_is_its_gradient(temperature):
    torch.manual_seed(0)
    logits = torch.randn(3, 11, requires_grad=True)
    targets = torch.tensor([5, 7, 2])
    teacher = [dict(map(tuple, entry)) for entry in ENTRIES]
    keys = {"kd_alpha": 0.7, "ce_alpha": 0.3, "temperature": temperature}
    values = {
        "teacher_ids": torch.tensor([[5, 9], [7, 0], [0, 0]]),
        "teacher_logprobs": torch.tensor([[-0.1, -3.0], [-0.2, -np.inf], [-np.inf, -np.inf]]),
    }
    ours = Distilled(**keys)(Scored(logits, targets, values), is_training=True)
    expected = by_hand(logits, targets, teacher, **keys)
    torch.testing.assert_close(ours, expected)
    got, wanted = (torch.autograd.grad(each.sum(), logits)[0] for each in (ours, expected))
    torch.testing.assert_close(got, wanted)


def test_what_is_held_out_is_measured_by_its_answers():
    logits, targets = torch.randn(3, 11), torch.tensor([5, -100, 2])
    scored = Scored(logits, targets, {})
    distilled = Distilled(1.0, 0.0, 1.0)(scored, is_training=False)
    assert torch.equal(distilled, CrossEntropy()(scored, is_training=False))


# -- records ------------------------------------------------------------------------------------


def prepared(folder, records, **keys):
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    entry = {"path": str(folder / "d.jsonl"), "logprobs_field": "lp"} | keys
    config = {"base_model": "m", "learning_rate": 1e-4, "kd_trainer": True, "datasets": [entry]}
    (folder / "c.yml").write_text(yaml.safe_dump(config | {"shuffle_merged_datasets": False}))
    spec = load_spec(folder / "c.yml").spec.data
    return prepare_data(spec, tokenizer=tiny.gpt2_tokenizer(), seed=0, base_dir=folder).train


FORMS = {
    "pairs": {"lp": ENTRIES},
    "for every token": {"lp": [None, [[8, -1.0]], *ENTRIES]},
    "as vLLM writes it": {
        "lp": [[{"token": f"token_id:{t}", "logprob": x} for t, x in each] for each in ENTRIES]
    },
    "ids beside": {
        "lp": [[x for _, x in each] for each in ENTRIES],
        "target_token_ids": [[t for t, _ in each] for each in ENTRIES],
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_values(tmp_path, form):
    (row,) = prepared(tmp_path, [RECORD | FORMS[form]])
    ids, logprobs = row.values["teacher_ids"], row.values["teacher_logprobs"]
    said = [
        {int(t): round(float(x), 4) for t, x in zip(*each, strict=True) if np.isfinite(x)}
        for each in zip(ids, logprobs, strict=True)
    ]
    assert said == [{}, {}, {5: -0.1, 9: -3.0}, {7: -0.2}, {}]


def test_packs_and_batches_carry_what_the_teacher_said(tmp_path):
    """Rows of two, of one and of no candidates, in a pack and side by side."""
    plain = {"input_ids": [3, 4, 6], "labels": [-100, 4, 6], "lp": [[], []]}
    other = {"input_ids": [3, 6], "labels": [-100, 6], "lp": [[[6, -0.5]]]}
    rows = list(prepared(tmp_path, [RECORD | FORMS["pairs"], other, plain]))
    for batch in (Padded(0).batch(rows), Padded(0).batch([join(rows)])):
        said = {}
        targets = batch.targets.flatten(0, 1)
        ids, logprobs = (batch.values[f"teacher_{n}"].flatten(0, 1) for n in ("ids", "logprobs"))
        for target, tokens, values in zip(targets, ids, logprobs, strict=True):
            if target != -100:
                said.setdefault(int(target), []).append(tokens[values.isfinite()].tolist())
        assert said == {5: [[5, 9]], 7: [[7]], 2: [[]], 6: [[6], []], 4: [[]]}


def test_the_teachers_temperature_is_taken_out(tmp_path):
    (row,) = prepared(tmp_path, [RECORD | FORMS["pairs"]], temperature=2.0)
    assert row.values["teacher_logprobs"][2].tolist() == pytest.approx([-0.2, -6.0])


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (None, "holds no logprobs"),
        (ENTRIES[:2], "does not fit the tokens"),
        ([[[99999, -1.0]], [], []], "unsound logprobs"),
        ([[[5, "x"]], [], []], "unsound logprobs"),
        ([["x"], [], []], "unsound logprobs"),
        ([[[1.5, -1.0]], [], []], "unsound logprobs"),
    ],
)
def test_what_does_not_fit_is_told_with_its_line(tmp_path, entries, says):
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, [RECORD | {"lp": entries}])
    assert says in str(caught.value)
    assert "d.jsonl:1" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kd_trainer": True}, "logprobs_field"),
        ({"logprobs_field": "lp"}, "logprobs_field"),
        ({"kd_temperature": 2.0}, "belong to kd_trainer: true"),
    ],
)
def test_its_keys_go_together(tmp_path, keys, says):
    entry = {"path": "d.jsonl"} | {k: v for k, v in keys.items() if k == "logprobs_field"}
    top = {k: v for k, v in keys.items() if k.startswith("kd_")}
    config = {"base_model": "m", "learning_rate": 1e-4, "datasets": [entry]} | top
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=says):
        load_spec(tmp_path / "c.yml")


def test_a_teacher_of_held_out_records_alone_is_refused(tmp_path):
    held_out = [{"path": "d.jsonl", "logprobs_field": "lp"}]
    config = {"base_model": "m", "learning_rate": 1e-4, "datasets": [{"path": "d.jsonl"}]}
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config | {"test_datasets": held_out}))
    with pytest.raises(UserError, match="logprobs_field"):
        load_spec(tmp_path / "c.yml")


def test_axolotls_type_is_read(tmp_path):
    entry = {"path": "d.jsonl", "type": "axolotl.integrations.kd.chat_template"}
    config = {"base_model": "m", "learning_rate": 1e-4, "kd_trainer": True, "datasets": [entry]}
    config["plugins"] = ["axolotl.integrations.kd.KDPlugin"]
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config))
    (entry,) = load_spec(tmp_path / "c.yml").spec.data.datasets
    assert (entry.type, entry.logprobs_field) == ("chat_template", "logprobs")


def test_a_student_learns_from_the_file_that_the_script_writes(tmp_path, tiny_llama, monkeypatch):
    """The teacher is the base itself, so the divergence begins at about nothing."""
    config = write_config(tmp_path, tiny_llama, num_records=6, max_steps=2)
    output = tmp_path / "kd.jsonl"
    arguments = [
        str(config),
        "--teacher",
        str(tiny_llama),
        "--output",
        str(output),
        "--top-k",
        "200",
    ]
    monkeypatch.setattr(sys, "argv", ["teacher_logprobs.py", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    student = write_config(
        tmp_path, tiny_llama, max_steps=2, kd_trainer=True, kd_alpha=1.0, sample_packing=True,
        datasets=[{"path": str(output), "logprobs_field": "logprobs"}],
    )  # fmt: skip
    run(student, overwrite=True)
    first, _ = (loss for _, loss, _, _ in curve(tmp_path / "out"))
    # The 200 of 500 tokens that are stored hold about half of it all: log of that is what is left.
    assert 0 < first < 1

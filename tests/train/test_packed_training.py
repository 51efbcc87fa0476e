"""Packed, grouped or neither: the same learning from the same records, and exact resume."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MambaConfig, OPTConfig

import tiny
from ft.data.batches import Flat, Padded, join
from ft.evaluate.objective import SupervisedTuning
from ft.model.attention import VARLEN
from ft.model.varlen import register_varlen
from ft.runtime import Interrupted, UserError
from runs import curve, events, run, stop_after, write_config

PAD = 2
PACKS = [[17, 3, 9], [30], [2, 11, 4, 8]]


@dataclass
class Record:
    input_ids: np.ndarray
    labels: np.ndarray


def make_packs(seed=0):
    """Every token trained, also the first ones, which no other record may be asked to predict."""
    generator = np.random.default_rng(seed)
    records = [[generator.integers(3, 400, n).astype(np.int32) for n in pack] for pack in PACKS]
    return [[Record(ids, ids.copy()) for ids in pack] for pack in records]


def load(folder, attention):
    register_varlen()
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )


def learned(model, objective, batch):
    """Mean loss a trained token, and its gradients."""
    model.zero_grad()
    num_trained = int((batch.targets != -100).sum())
    loss = objective.loss_sum(model, batch) / num_trained
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def largest_difference(one, other):
    (loss, gradients), (other_loss, other_gradients) = one, other
    differences = [(gradients[name] - other_gradients[name]).abs().max() for name in gradients]
    return float(max([(loss - other_loss).abs(), *differences]))


class TestNoAttentionAcrossRecords:
    @pytest.mark.parametrize(
        ("attention", "layout"), [("sdpa", Padded(PAD)), ("eager", Padded(PAD)), (VARLEN, Flat(30))]
    )
    def test_loss_and_gradients_are_those_of_records_alone(self, tiny_llama, attention, layout):
        packs = make_packs()
        alone = SupervisedTuning(Padded(PAD))
        rows = [record for pack in packs for record in pack]
        expected = learned(load(tiny_llama, "eager"), alone, alone.layout.batch(rows))
        packed = layout.batch([join(pack) for pack in packs])
        got = learned(load(tiny_llama, attention), SupervisedTuning(layout), packed)
        assert largest_difference(got, expected) < 1e-6

    def test_the_trap_a_mask_of_ones_beside_the_positions(self, tiny_llama):
        """It says nothing about pad tokens, and lets every record see those before it."""
        model, objective = load(tiny_llama, "sdpa"), SupervisedTuning(Padded(PAD))
        batch = objective.layout.batch([join(pack) for pack in make_packs()])
        assert "attention_mask" not in batch.inputs
        mask = torch.ones_like(batch.inputs["input_ids"])
        trapped = replace(batch, inputs=batch.inputs | {"attention_mask": mask})
        difference = largest_difference(
            learned(model, objective, trapped), learned(model, objective, batch)
        )
        assert difference > 1e-3

    def test_positions_begin_anew_at_each_record_and_at_the_pad_tokens(self):
        first, *_ = batch_positions = (
            Padded(PAD).batch([join(pack) for pack in make_packs()]).inputs["position_ids"]
        )
        assert batch_positions.shape == (3, 30)
        assert first.tolist() == [*range(17), *range(3), *range(9), 0]
        flat = Flat(30).batch([join(pack) for pack in make_packs()]).inputs
        assert flat["cu_seq_lens_q"].tolist() == [0, 17, 20, 29, 59, 61, 72, 76, 84]
        assert flat["max_length_q"] == 30

    def test_the_weight_of_a_pack_is_that_of_its_records(self):
        objective = SupervisedTuning(Padded(PAD))
        for pack in make_packs():
            assert objective.weight(join(pack)) == sum(map(objective.weight, pack))


PACKING = {
    "sample_packing": True,
    "sequence_len": 300,
    "num_records": 29,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 2,
}


def configs(tmp_path, tiny_llama, **kinds):
    """A config each, in a folder of its own name."""
    for name, keys in kinds.items():
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, tiny_llama, **keys)
    return [tmp_path / name / "run.yml" for name in kinds]


def evaluations(out):
    return [event["eval_loss"] for event in events(out, "evaluation")]


class TestRuns:
    def test_a_step_holds_packs(self, tmp_path, tiny_llama):
        run(write_config(tmp_path, tiny_llama, **PACKING, num_epochs=2))
        (start,) = events(tmp_path / "out", "start")
        packing = start["packing"]
        assert packing["num_records"] == start["num_train_records"] == 29
        assert start["rows_per_step"] == 2
        assert start["steps_per_epoch"] == -(-packing["num_packs"] // 2)
        assert start["num_steps"] == 2 * start["steps_per_epoch"]
        tokens = [event["num_tokens"] for event in events(tmp_path / "out", "step")]
        assert sum(tokens) == round(2 * packing["efficiency"] * packing["num_packs"] * 300)
        assert max(tokens) <= 600

    def test_flat_trains_like_rows_of_packs(self, tmp_path, tiny_llama):
        kinds = {
            name: PACKING | {"attn_implementation": name, "max_steps": 6}
            for name in ("varlen", "sdpa")
        }
        for config in configs(tmp_path, tiny_llama, **kinds):
            run(config)
        flat, rows = (torch.tensor(curve(tmp_path / name / "out")) for name in kinds)
        torch.testing.assert_close(flat, rows, rtol=2e-5, atol=2e-6)

    @pytest.mark.parametrize(
        "keys",
        [PACKING, {"group_by_length": True, "num_records": 22}],
        ids=["packed", "grouped by length"],
    )
    def test_a_stopped_run_goes_on_bit_for_bit(self, tmp_path, tiny_llama, keys):
        """In the middle of the second epoch, with dropout and evaluation between."""
        keys = {**keys, "num_epochs": 2, "lora_dropout": 0.1, "val_set_size": 3, "eval_steps": 2}
        straight, stopped = configs(tmp_path, tiny_llama, straight=keys, stopped=keys)
        run(straight)
        (start,) = events(tmp_path / "straight" / "out", "start")
        stop = start["steps_per_epoch"] + 1
        assert stop < start["num_steps"]
        with pytest.raises(Interrupted):
            run(stopped, on_event=stop_after(stop))
        run(stopped)
        assert curve(tmp_path / "stopped" / "out") == curve(tmp_path / "straight" / "out")
        one, two = (
            load_file(tmp_path / name / "out" / "adapter_model.safetensors")
            for name in ("straight", "stopped")
        )
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_packing_cannot_be_switched_in_the_middle(self, tmp_path, tiny_llama):
        config = write_config(tmp_path, tiny_llama, **PACKING, num_epochs=2)
        with pytest.raises(Interrupted):
            run(config, on_event=stop_after(2))
        with pytest.raises(UserError, match="began otherwise: sample_packing"):
            run(config, "--sample-packing", "false")

    def test_two_processes_train_like_one(self, tmp_path, tiny_llama):
        """The same packs in the same steps; and the run says how full they are."""
        two = PACKING | {"gradient_accumulation_steps": 1, "num_epochs": 2}
        configs(tmp_path, tiny_llama, one=PACKING | {"num_epochs": 2}, two=two)
        run(tmp_path / "one" / "run.yml")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node", "2", "-m", "ft", "train", str(tmp_path / "two" / "run.yml")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        packing = events(tmp_path / "one" / "out", "start")[0]["packing"]
        said = f"packing: 29 records in {packing['num_packs']} packs of 300, "
        assert said in done.stdout
        assert " steps of 2 packs (2.00 epochs)" in done.stdout
        one, two = (torch.tensor(curve(tmp_path / name / "out")) for name in ("one", "two"))
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
        tokens = [
            [event["num_tokens"] for event in events(tmp_path / name / "out", "step")]
            for name in ("one", "two")
        ]
        assert tokens[0] == tokens[1]

    def test_packed_evaluation_measures_the_same(self, tmp_path, tiny_llama):
        common = PACKING | {"val_set_size": 9, "max_steps": 2, "eval_steps": 1}
        kinds = {
            "follows": common,
            "off": common | {"eval_sample_packing": False},
            "alone": common | {"sample_packing": False, "eval_sample_packing": True},
            "neither": common | {"sample_packing": False},
        }
        for config in configs(tmp_path, tiny_llama, **kinds):
            run(config)
        losses = {name: evaluations(tmp_path / name / "out") for name in kinds}
        assert losses["follows"] == pytest.approx(losses["off"], rel=1e-6)
        assert losses["alone"] == pytest.approx(losses["neither"], rel=1e-6)
        assert losses["follows"][1] != pytest.approx(losses["neither"][1], rel=1e-6)
        for name in kinds:
            evaluation = events(tmp_path / name / "out", "evaluation")[0]
            assert evaluation["num_records"] == 9


OTHER_MODELS = {
    "positions from a mask": OPTConfig(
        vocab_size=500,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=32,
    ),
    "state along the row": MambaConfig(vocab_size=500, hidden_size=32, num_hidden_layers=1),
}


@pytest.mark.parametrize("config", OTHER_MODELS.values(), ids=OTHER_MODELS.keys())
@pytest.mark.filterwarnings("ignore")
def test_a_model_whose_records_would_see_each_other_is_refused(tmp_path, config):
    base = tmp_path / "base"
    tokenizer = tiny.chatml_tokenizer()
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    keys = {"adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_linear": None}
    with pytest.raises(UserError, match="the records of a row see each other") as caught:
        run(write_config(tmp_path, base, sample_packing=True, **keys))
    assert "sample_packing: false" in caught.value.problems[0].fix
    assert not (tmp_path / "out" / "run.json").exists(), "so that the run can begin without packs"

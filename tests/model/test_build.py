from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ft.model import Hardware, Precision, build_model, load_tokenizer, load_trained
from ft.runtime.errors import UserError
from ft.spec.runspec import AdapterSpec, ModelSpec, SpecialTokens

CPU = Hardware("cpu", supports_bf16=True)
IDS = torch.arange(3, 19)[None]
LORA = AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8)


def build(
    folder,
    adapter=LORA,
    precision=None,
    *,
    seed=1,
    gradient_checkpointing=False,
    sequence_len=None,
    **keys,
):
    spec = ModelSpec(base_model=str(folder), **keys)
    return build_model(
        spec,
        adapter,
        precision or Precision(),
        None,
        load_tokenizer(spec),
        hardware=CPU,
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
        sequence_len=sequence_len,
    )


def train(loaded, num_steps=2, lr=1e-2, ids=IDS):
    """A few steps of plain AdamW; the losses."""
    parameters = [p for _, p in loaded.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    losses = []
    for _ in range(num_steps):
        with loaded.autocast():
            loss = loaded.model(input_ids=ids, labels=ids).loss
        loss.backward()
        assert all(p.grad is not None for p in parameters)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def logits(loaded, ids=IDS):
    with loaded.inference() as model:
        return model(ids).logits.float()


@pytest.mark.parametrize("bits", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}])
@pytest.mark.parametrize("autocast", [False, True])
def test_adapters_learn_on_every_kind_of_base(tiny_llama, bits, autocast):
    precision = Precision("bf16", "bf16", "bf16") if autocast else Precision()
    loaded = build(tiny_llama, precision=precision, **bits)
    losses = train(loaded, num_steps=4)
    assert losses[-1] < losses[0]
    assert all("lora_" in name for name, _ in loaded.trainable_parameters())
    assert {p.dtype for _, p in loaded.trainable_parameters()} == {torch.float32}


def test_everything_learns_without_an_adapter(tiny_llama):
    loaded = build(tiny_llama, AdapterSpec())
    assert loaded.num_trainable == loaded.num_parameters
    losses = train(loaded, num_steps=3)
    assert losses[-1] < losses[0]


def test_bf16_full_trains_bf16_weights(tiny_llama):
    loaded = build(tiny_llama, AdapterSpec(), Precision("bf16", "no", "bf16"))
    train(loaded)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_few_bits_cannot_be_trained_without_an_adapter(tiny_llama):
    with pytest.raises(UserError, match="cannot be trained themselves"):
        build(tiny_llama, AdapterSpec(), load_in_4bit=True)


def test_4bit_parameters_are_counted_as_what_they_stand_for(tiny_llama):
    plain, quantized = build(tiny_llama), build(tiny_llama, load_in_4bit=True)
    assert plain.num_parameters == quantized.num_parameters
    assert (
        plain.num_trainable
        == quantized.num_trainable
        == 2 * 4 * (4 * (64 + 64) - 2 * 32 + 3 * (64 + 128))
    )


def test_the_seed_alone_decides_the_first_weights(tiny_llama):
    first = build(tiny_llama, seed=7)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    second, other = build(tiny_llama, seed=7), build(tiny_llama, seed=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = zip(first.trainable_parameters(), second.trainable_parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)
    assert not torch.equal(first.trainable_parameters()[0][1], other.trainable_parameters()[0][1])


@pytest.mark.parametrize("bits", [{}, {"load_in_4bit": True}])
@pytest.mark.parametrize("adapter", [LORA, None])
def test_gradient_checkpointing_changes_no_gradient(tiny_llama, bits, adapter):
    if bits and adapter is None:
        return
    gradients = []
    for recompute in (False, True):
        loaded = build(
            tiny_llama, adapter or AdapterSpec(), gradient_checkpointing=recompute, **bits
        )
        calls = count_calls(loaded.model)
        loaded.model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append([p.grad.clone() for _, p in loaded.trainable_parameters()])
        assert calls["mlp"] == (4 if recompute else 2)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def count_calls(model):
    calls = {"mlp": 0}

    def count(*_):
        calls["mlp"] += 1

    for name, module in model.named_modules():
        if name.endswith("mlp.act_fn"):
            module.register_forward_hook(count)
    return calls


def test_named_targets(tiny_llama):
    spec = AdapterSpec(adapter="lora", lora_target_modules=("q_proj", "v_proj"))
    loaded = build(tiny_llama, spec)
    names = {name.split(".")[-4] for name, _ in loaded.trainable_parameters()}
    assert names == {"q_proj", "v_proj"}
    both = build(tiny_llama, spec.model_copy(update={"lora_target_linear": True}))
    assert both.num_trainable > loaded.num_trainable


def test_no_target_means_all_linear_and_is_said(tiny_llama):
    notes = build(tiny_llama).notes
    assert notes == [
        "no target named: an adapter on every linear layer "
        "(down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj)"
    ]


def test_wrong_module_names_are_all_named_with_the_nearest(tiny_llama):
    spec = AdapterSpec(adapter="lora", lora_target_modules=("q_prj", "v_proj", "wqkv"))
    with pytest.raises(UserError) as error:
        build(tiny_llama, spec)
    assert [p.what for p in error.value.problems] == [
        "the model has no module named 'q_prj'",
        "the model has no module named 'wqkv'",
    ]
    fix = error.value.problems[0].fix
    assert fix.startswith("did you mean q_proj? it has q_proj, ")
    assert "embed_tokens" not in fix
    assert "lm_head" not in fix
    spec = AdapterSpec(adapter="lora", lora_modules_to_save=("lm_heads",))
    with pytest.raises(UserError, match="did you mean lm_head"):
        build(tiny_llama, spec)


def test_quantized_modules_cannot_be_saved_whole(tiny_llama):
    spec = AdapterSpec(adapter="qlora", lora_modules_to_save=("up_proj",))
    with pytest.raises(UserError, match="held in few bits"):
        build(tiny_llama, spec)


VARIANTS = {
    "lora": (LORA, {}),
    "nf4": (LORA, {"load_in_4bit": True}),
    "int8": (LORA, {"load_in_8bit": True}),
    "modules_to_save": (LORA.model_copy(update={"lora_modules_to_save": ("lm_head",)}), {}),
    "full": (AdapterSpec(), {}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_come_back_bit_for_bit(tiny_llama, tmp_path, name):
    adapter, bits = VARIANTS[name]
    trained = build(tiny_llama, adapter, **bits)
    train(trained)
    trained.save_weights(tmp_path / "step")
    restored = build(tiny_llama, adapter, seed=5, **bits)
    restored.load_weights(tmp_path / "step")
    for (a, left), (b, right) in zip(
        trained.trainable_parameters(), restored.trainable_parameters(), strict=True
    ):
        assert a == b
        assert torch.equal(left, right)
    assert torch.equal(logits(trained), logits(restored))


def test_only_weights_are_written(tiny_llama, tmp_path):
    build(tiny_llama).save_weights(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_llama)
    assert config["inference_mode"] is True
    assert config["task_type"] == "CAUSAL_LM"


def test_weights_of_another_shape_are_refused(tiny_llama, tmp_path):
    build(tiny_llama).save_weights(tmp_path)
    other = build(tiny_llama, LORA.model_copy(update={"lora_r": 8}))
    with pytest.raises(UserError, match="tensors do not fit"):
        other.load_weights(tmp_path)


@pytest.mark.parametrize("name", ["lora", "modules_to_save"])
def test_plain_peft_loads_what_we_saved(tiny_llama, tmp_path, name):
    trained = build(tiny_llama, *VARIANTS[name][:1])
    train(trained)
    trained.save_weights(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    theirs = PeftModel.from_pretrained(base, tmp_path).eval()(IDS).logits
    assert (theirs - logits(trained)).abs().max() < 1e-5


RELOAD = """
import sys, pathlib, torch
from ft.model import Hardware, Precision, load_trained
from ft.spec.runspec import AdapterSpec, ModelSpec
base, run = sys.argv[1:]
loaded = load_trained(pathlib.Path(run), ModelSpec(base_model=base),
                      AdapterSpec(adapter="lora"), Precision(), hardware=Hardware("cpu"))
model = loaded.model
print(model.get_input_embeddings().weight is model.get_output_embeddings().weight)
with torch.no_grad():
    torch.save_logits = model(torch.tensor([[3, 4, 5, 500, 501, 6]])).logits
from safetensors.torch import save_file
save_file({"logits": torch.save_logits}, run + "/logits.safetensors")
"""


@pytest.mark.parametrize("base", ["chatml", "chatml-tied"])
def test_new_tokens_are_trained_saved_and_come_back_in_a_fresh_process(tiny_llamas, tmp_path, base):
    trained = build(
        tiny_llamas[base],
        tokens=("<sql>",),
        special_tokens=SpecialTokens(pad_token="<pad>"),
    )
    new = trained.tokenizer.new_token_ids
    ids = torch.tensor([[3, 4, 5, *new, 6]])
    before = trained.model.get_input_embeddings().weight.detach().clone()
    train(trained, ids=ids)
    after = trained.model.get_input_embeddings().weight
    assert (after[list(new)] != before[list(new)]).any(dim=1).all()
    is_tied = after is trained.model.get_output_embeddings().weight
    assert is_tied == (base == "chatml-tied")
    trained.save_weights(tmp_path)
    trained.tokenizer.tokenizer.save_pretrained(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", RELOAD.replace("500, 501", f"{new[0]}, {new[1]}"),
         str(tiny_llamas[base]), str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == str(is_tied)
    from safetensors.torch import load_file

    reloaded = load_file(tmp_path / "logits.safetensors")["logits"]
    assert (reloaded - logits(trained, ids)).abs().max() <= 1e-6


def test_a_tokenizer_larger_than_the_embeddings_gets_rows(tiny_llamas, tmp_path):
    small = AutoModelForCausalLM.from_pretrained(tiny_llamas["chatml"])
    small.resize_token_embeddings(400)
    small.save_pretrained(tmp_path)
    loaded = build(tmp_path, tokenizer_config=str(tiny_llamas["chatml"]))
    assert loaded.model.get_input_embeddings().weight.shape[0] == 500
    assert "the embeddings had no row for 100 tokens: added, and trained" in loaded.notes
    assert any("embed_tokens" in name for name, _ in loaded.trainable_parameters())


def test_going_on_from_an_adapter(tiny_llama, tmp_path):
    first = build(tiny_llama, LORA.model_copy(update={"lora_r": 2}))
    train(first)
    first.save_weights(tmp_path)
    going_on = LORA.model_copy(update={"lora_model_dir": str(tmp_path)})
    second = build(tiny_llama, going_on)
    assert torch.equal(logits(first), logits(second))
    assert "its own lora_r 2 and lora_alpha 8.0 hold, not 4 and 8" in second.notes
    losses = train(second, num_steps=3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("what", ["missing", "empty", "pickled", "misfit", "cut", "damaged"])
def test_going_on_from_what_is_no_adapter(tiny_llamas, tmp_path, what):
    folder = tmp_path / "adapter"
    weights = folder / "adapter_model.safetensors"
    if what not in ("missing", "empty"):
        build(tiny_llamas["llama"], VARIANTS["modules_to_save"][0]).save_weights(folder)
    if what == "pickled":
        weights.rename(folder / "adapter_model.bin")
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    if what == "damaged":
        weights.write_bytes(b"")
    if what == "empty":
        folder.mkdir()
    said = {
        "missing": "no such folder",
        "empty": "no adapter_config.json",
        "pickled": "never read",
        "misfit": "does not fit the base model",
        "cut": rf"{weights}: is cut short or damaged",
        "damaged": rf"{weights}: is cut short or damaged",
    }
    with pytest.raises(UserError, match=said[what]):
        build(tiny_llamas["chatml"], LORA.model_copy(update={"lora_model_dir": str(folder)}))


def test_the_base_answers_without_the_adapter(tiny_llama):
    loaded = build(tiny_llama)
    base = logits(build(tiny_llama))
    train(loaded)
    trainable = [name for name, _ in loaded.trainable_parameters()]
    with loaded.without_adapter():
        assert torch.equal(logits(loaded), base)
    assert not torch.allclose(logits(loaded), base)
    assert [name for name, _ in loaded.trainable_parameters()] == trainable


def test_a_trained_run_is_loaded_frozen(tiny_llama, tmp_path):
    trained = build(tiny_llama, load_in_4bit=True)
    train(trained)
    trained.save_weights(tmp_path)
    spec = ModelSpec(base_model=str(tiny_llama), load_in_4bit=True)
    forms = {
        form: load_trained(tmp_path, spec, LORA, Precision(), hardware=CPU, form=form)
        for form in ("trained", "dequantized", "plain")
    }
    assert forms["trained"].trainable_parameters() == []
    with forms["trained"].without_adapter():
        pass
    assert forms["trained"].trainable_parameters() == []
    assert torch.equal(logits(forms["trained"]), logits(trained))
    assert (logits(forms["dequantized"]) - logits(trained)).abs().max() < 1e-5
    assert (logits(forms["plain"]) - logits(trained)).abs().max() > 1e-3


def test_a_full_model_is_loaded_from_the_run_itself(tiny_llama, tmp_path):
    trained = build(tiny_llama, AdapterSpec())
    train(trained)
    trained.save_weights(tmp_path)
    spec = ModelSpec(base_model=str(tiny_llama))
    loaded = load_trained(tmp_path, spec, AdapterSpec(), Precision(), hardware=CPU)
    assert not loaded.has_adapter
    assert torch.equal(logits(loaded), logits(trained))
    with pytest.raises(UserError, match="no base beside itself"), loaded.without_adapter():
        pass


def test_a_trained_run_with_cut_weights_names_the_file(tiny_llama, tmp_path):
    build(tiny_llama).save_weights(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    spec = ModelSpec(base_model=str(tiny_llama))
    with pytest.raises(UserError, match=rf"{weights}: is cut short or damaged"):
        load_trained(tmp_path, spec, LORA, Precision(), hardware=CPU)


def test_a_sequence_longer_than_the_base_was_made_for_is_noted(tiny_llama):
    assert not [note for note in build(tiny_llama, sequence_len=512).notes if "512" in note]
    assert any(
        note.startswith("sequence_len 1,024 is more than the 512 tokens")
        for note in build(tiny_llama, sequence_len=1024).notes
    )


def test_an_unfinished_run_is_said_to_be_one(tiny_llama, tmp_path):
    with pytest.raises(UserError, match="holds no trained model"):
        load_trained(
            tmp_path, ModelSpec(base_model=str(tiny_llama)), LORA, Precision(), hardware=CPU
        )


def test_inference_takes_padded_batches_and_leaves_no_trace(tiny_llama):
    loaded = build(tiny_llama, attn_implementation="varlen")
    assert loaded.attention.is_varlen
    padded = torch.tensor([[0, 0, 5, 6], [3, 4, 5, 6]])
    mask = (padded > 0).long()
    with loaded.inference() as model:
        batch = model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(0))
        alone = model(padded[:1, 2:])
        assert (batch.logits[0, 2:] - alone.logits[0]).abs().max() < 1e-5
        assert not model.training
    config = loaded.model.get_base_model().config
    assert config._attn_implementation == "ft_varlen"
    assert loaded.model.training
    assert config.use_cache is True  # the checkpoint's own word, which is saved with it


def test_generation_stops_at_the_tokenizers_end_token(tiny_llamas):
    loaded = build(tiny_llamas["chatml"], special_tokens=SpecialTokens(eos_token="<|endoftext|>"))
    ends = loaded.model.generation_config.eos_token_id
    assert ends == [loaded.tokenizer.tokenizer.eos_token_id, 2]

"""`lora_target_parameters`: adapters on the tensors of fused experts, plain or in few bits."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny
from ft.model import Hardware, Precision, build_model, load_tokenizer, load_trained
from ft.runtime import UserError
from ft.ship.merge import merge_adapter
from ft.spec.runspec import AdapterSpec, ModelSpec

CPU = Hardware("cpu", supports_bf16=True)
FULL = Precision()
HALF = Precision("bf16", "bf16", "bf16")
IDS = torch.arange(3, 19)[None]
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_tiny_mixture(tmp_path_factory.mktemp("mixture"))


def lora(parameters=EXPERTS, **keys) -> AdapterSpec:
    return AdapterSpec(adapter="lora", lora_r=4, lora_target_parameters=parameters, **keys)


def built(spec: ModelSpec, adapter: AdapterSpec, precision: Precision, **options):
    tokenizer = load_tokenizer(spec)
    return build_model(spec, adapter, precision, None, tokenizer, hardware=CPU, seed=1, **options)


def train(loaded, num_steps=4) -> list[float]:
    optimizer = torch.optim.AdamW([p for _, p in loaded.trainable_parameters()], lr=1e-2)
    losses = []
    for _ in range(num_steps):
        with loaded.autocast():
            loss = loaded.model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def logits(loaded) -> torch.Tensor:
    with loaded.inference() as model:
        return model(IDS).logits.float()


def test_they_alone_are_trained_and_peft_reads_them_back(folder, tmp_path):
    loaded = built(ModelSpec(base_model=str(folder)), lora(), FULL)
    names = [name for name, _ in loaded.trainable_parameters()]
    assert len(names) == 2 * 2 * 2  # layers, tensors, A and B
    assert all(".experts." in name for name in names)
    losses = train(loaded)
    assert losses[-1] < losses[0]
    loaded.save_weights(tmp_path)
    loaded.tokenizer.tokenizer.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path).eval()
    torch.testing.assert_close(again(IDS).logits, logits(loaded))
    merged = merge_adapter(
        tmp_path, ModelSpec(base_model=str(folder)), lora(), FULL, CPU,
        out=tmp_path / "merged", probe_input_ids=[IDS[0].tolist()], dtype="fp32",
    )  # fmt: skip
    assert merged.num_layers == 4
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(whole(IDS).logits, logits(loaded), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_over_experts_in_few_bits_every_adapter_learns_and_is_read_back(folder, tmp_path, bits):
    spec = ModelSpec(base_model=str(folder), quantize_moe_experts=True, **bits)
    adapter = lora(lora_target_modules=("q_proj",))
    loaded = built(spec, adapter, HALF)
    before = {name: p.detach().clone() for name, p in loaded.trainable_parameters()}
    losses = train(loaded)
    assert losses[-1] < losses[0]
    changed = [
        name for name, p in loaded.trainable_parameters() if not torch.equal(p, before[name])
    ]
    assert sorted(changed) == sorted(before)
    loaded.save_weights(tmp_path)
    for form in ("trained", "dequantized"):
        again = load_trained(tmp_path, spec, adapter, HALF, hardware=CPU, form=form)
        torch.testing.assert_close(logits(again), logits(loaded), rtol=0, atol=0.05)


def test_over_few_bits_the_update_is_that_over_what_they_stand_for(folder):
    """The gradients of every factor, as those over the same weights unfolded: bf16, 2 %."""
    spec = ModelSpec(base_model=str(folder), quantize_moe_experts=True, load_in_8bit=True)
    folded = built(spec, lora(), HALF)
    plain = built(ModelSpec(base_model=str(folder)), lora(), HALF)
    gradients = []
    for loaded in (folded, plain):
        with torch.no_grad():
            for index, (_, parameter) in enumerate(loaded.trainable_parameters()):
                generator = torch.Generator().manual_seed(index)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        with loaded.autocast():
            loaded.model(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({name: p.grad for name, p in loaded.trainable_parameters()})
    for name, expected in gradients[1].items():
        assert (gradients[0][name] - expected).norm() < 0.1 * expected.norm(), name


def test_recomputation_changes_nothing(folder):
    spec = ModelSpec(base_model=str(folder), quantize_moe_experts=True, load_in_4bit=True)
    plain = train(built(spec, lora(), HALF))
    recomputed = train(built(spec, lora(), HALF, gradient_checkpointing=True))
    assert recomputed == pytest.approx(plain, abs=1e-3)


def test_nothing_else_of_the_file_changes_names(folder, tmp_path):
    spec = ModelSpec(base_model=str(folder), quantize_moe_experts=True, load_in_4bit=True)
    built(spec, lora(), HALF).save_weights(tmp_path / "folded")
    built(ModelSpec(base_model=str(folder)), lora(), HALF).save_weights(tmp_path / "plain")
    shapes = [
        {
            name: tensor.shape
            for name, tensor in load_file(run / "adapter_model.safetensors").items()
        }
        for run in (tmp_path / "folded", tmp_path / "plain")
    ]
    assert shapes[0] == shapes[1]


def test_a_tensor_that_is_not_there_is_an_error_with_the_nearest(folder):
    with pytest.raises(UserError, match="no tensor beside its linear layers named") as error:
        built(ModelSpec(base_model=str(folder)), lora(("experts.gate_up_prj",)), FULL)
    assert "did you mean experts.gate_up_proj?" in str(error.value)

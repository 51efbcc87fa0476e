from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.runtime.errors import FtError, UserError
from ft.ship.merge import merge_adapter
from ft.spec.runspec import AdapterSpec, ModelSpec

CPU = Hardware("cpu", supports_bf16=True, memory_bytes=2**34)
FP32 = Precision()
LORA = AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8)
PROBES = [list(range(3, 30)), [7, 8, 9, 400, 401]]


class Run:
    """A trained run's folder, without the training room."""

    def __init__(self, base, folder, adapter=LORA, num_steps=8, **keys):
        self.folder, self.adapter = folder, adapter
        self.model = ModelSpec(base_model=str(base), **keys)
        self.trained = build_model(
            self.model,
            adapter,
            Precision(),
            None,
            load_tokenizer(self.model),
            hardware=CPU,
            seed=1,
        )
        self._train(num_steps)
        self.trained.save_weights(folder)
        self.trained.tokenizer.tokenizer.save_pretrained(folder)

    def _train(self, num_steps):
        parameters = [p for _, p in self.trained.trainable_parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=2e-2)
        ids = torch.tensor([PROBES[0]])
        for _ in range(num_steps):
            self.trained.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def merge(self, precision=FP32, hardware=CPU, **options):
        return merge_adapter(
            self.folder,
            self.model,
            self.adapter,
            precision,
            hardware,
            out=self.folder / "merged",
            probe_input_ids=PROBES,
            **options,
        )

    def logits(self):
        with self.trained.inference() as model:
            return [model(torch.tensor([ids])).logits for ids in PROBES]


def plain_logits(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits for ids in PROBES]


def largest_difference(left, right):
    return max((a - b).abs().max().item() for a, b in zip(left, right, strict=True))


BASES = {
    "plain": ("chatml", {}, {}),
    "tied": ("chatml-tied", {}, {}),
    "rank-stabilized": ("chatml", {"peft_use_rslora": True}, {}),
    "nf4": ("chatml", {}, {"load_in_4bit": True}),
    "modules_to_save": ("chatml", {"lora_modules_to_save": ("lm_head",)}, {}),
    "new tokens": ("chatml", {}, {"tokens": ("<sql>",)}),
    "new tokens, tied": ("chatml-tied", {}, {"tokens": ("<sql>",)}),
    "new tokens, tied, nf4": ("chatml-tied", {}, {"tokens": ("<sql>",), "load_in_4bit": True}),
    "head adapted, tied": (
        "chatml-tied",
        {"lora_target_linear": True, "lora_target_modules": ("lm_head",)},
        {},
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_plain_transformers_answers_like_the_adapter(tiny_llamas, tmp_path, name):
    base, adapter_keys, model_keys = BASES[name]
    run = Run(tiny_llamas[base], tmp_path, LORA.model_copy(update=adapter_keys), **model_keys)
    report = run.merge(dtype="fp32")
    merged, adapter = plain_logits(tmp_path / "merged"), run.logits()
    scale = max(logits.abs().max().item() for logits in adapter)
    assert largest_difference(merged, adapter) <= 1e-4 * scale
    assert report.max_layer_error < 1e-5
    assert report.mean_kl < 1e-7 < 1e-3 < report.mean_kl_of_base
    assert report.num_probe_tokens == 32


def test_the_default_is_bf16_and_says_how_far_it_is(tiny_llama, tmp_path):
    run = Run(tiny_llama, tmp_path, num_steps=30)  # near-ties of random weights say nothing
    phases = []
    report = run.merge(on_progress=lambda phase, done, total: phases.append(phase))
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert 0 < report.mean_kl < report.max_mean_kl < report.mean_kl_of_base
    assert report.top1_agreement >= 0.99
    assert "14 layers merged onto the plain base, in bf16" in " ".join(report.render())
    assert report.mean_kl_on_original is None
    assert "original base" not in " ".join(report.render())
    assert list(dict.fromkeys(phases)) == [
        "asking the adapter",
        "loading the plain base",
        "merging",
        "writing",
        "asking the merged model",
    ]


@pytest.mark.parametrize("keys", [{}, {"load_in_4bit": True}], ids=["plain", "nf4"])
def test_adapter_and_merged_weights_answer_in_fp32_where_they_fit(tiny_llama, tmp_path, keys):
    run = Run(tiny_llama, tmp_path, num_steps=30, **keys)
    bf16 = Precision("bf16", "bf16", "bf16")
    compared = run.merge(bf16)
    assert compared.is_compared_in_fp32
    assert compared.mean_kl == run.merge().mean_kl, "whatever the run computed in"
    assert "both computed in fp32" in " ".join(compared.render())
    small = run.merge(bf16, Hardware("cpu", supports_bf16=True, memory_bytes=1))
    assert not small.is_compared_in_fp32
    assert compared.mean_kl < small.mean_kl / 5, "what is left is the rounding of the weights"
    assert small.top1_as_served == small.top1_agreement
    assert "both computed in fp32" not in " ".join(small.render())


@pytest.mark.parametrize(
    "name", ["plain", "tied", "rank-stabilized", "nf4", "new tokens", "new tokens, tied"]
)
def test_bf16_changes_no_first_choice_but_between_ties(tiny_llamas, tmp_path, name):
    """A tie is a lead within four steps of bf16 at the logits' size: the roundings of a forward."""
    base, adapter_keys, model_keys = BASES[name]
    adapter = LORA.model_copy(update=adapter_keys)
    run = Run(tiny_llamas[base], tmp_path, adapter, num_steps=30, **model_keys)
    run.merge()
    trained = torch.cat([logits[0] for logits in run.logits()])
    merged = torch.cat([each[0] for each in plain_logits(tmp_path / "merged", torch.bfloat16)])
    first, second = trained.topk(2).values.T
    is_clear = first - second > 4 * torch.finfo(torch.bfloat16).eps * trained.abs().max()
    assert is_clear.float().mean() > 0.5
    assert torch.equal(trained.argmax(-1)[is_clear], merged.argmax(-1)[is_clear])


def test_a_quantized_base_is_compared_with_its_original_too(tiny_llama, tmp_path):
    """The merge is the adapter's function on the base that is merged onto, and not on the other."""
    run = Run(tiny_llama, tmp_path, load_in_4bit=True)
    dequantized, plain = run.merge(dtype="fp32"), run.merge(dtype="fp32", onto="plain")
    assert dequantized.mean_kl < 1e-7 < 1e-6 < dequantized.mean_kl_on_original
    assert plain.mean_kl_on_original < 1e-7 < 1e-6 < plain.mean_kl
    assert "to the adapter on the original base" in " ".join(plain.render())
    kept = json.loads((tmp_path / "merged" / "merge.json").read_text())
    assert kept["mean_kl_on_original"] == plain.mean_kl_on_original


def test_a_merge_is_a_whole_model_folder(tiny_llamas, tmp_path):
    Run(tiny_llamas["chatml-tied"], tmp_path, load_in_4bit=True).merge()
    merged = tmp_path / "merged"
    names = {path.name for path in merged.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "merge.json"}
    assert "adapter_config.json" not in names
    config = json.loads((merged / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(merged / "model.safetensors")
    generation = json.loads((merged / "generation_config.json").read_text())
    assert generation["eos_token_id"] == AutoTokenizer.from_pretrained(merged).eos_token_id
    assert [path.name for path in tmp_path.glob(".tmp-*")] == []


def test_an_adapted_tied_head_is_untied(tiny_llamas, tmp_path):
    _, adapter_keys, _ = BASES["head adapted, tied"]
    Run(tiny_llamas["chatml-tied"], tmp_path, LORA.model_copy(update=adapter_keys)).merge()
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False


def test_int8_and_the_original_base_have_a_wider_bound(tiny_llama, tmp_path):
    int8 = Run(tiny_llama, tmp_path / "int8", load_in_8bit=True).merge()
    nf4 = Run(tiny_llama, tmp_path / "nf4", load_in_4bit=True)
    assert int8.max_mean_kl == nf4.merge(onto="plain").max_mean_kl == 0.25
    dequantized = nf4.merge()
    assert dequantized.onto == "dequantized"
    assert dequantized.max_mean_kl == 0.01


def test_a_second_merge_replaces_the_first_and_nothing_else(tiny_llama, tmp_path):
    run = Run(tiny_llama, tmp_path)
    run.merge()
    (tmp_path / "merged" / "stale").touch()
    run.merge()
    assert not (tmp_path / "merged" / "stale").exists()
    (tmp_path / "merged" / "merge.json").unlink()
    with pytest.raises(UserError, match="something that no merge made"):
        run.merge()


def test_an_adapter_that_was_never_trained_is_refused(tiny_llama, tmp_path):
    run = Run(tiny_llama, tmp_path, num_steps=0)
    for allow in (False, True):
        with pytest.raises(UserError, match="never trained: it changes no weight"):
            run.merge(allow_untrained=allow)
    assert not (tmp_path / "merged").exists()


def change_adapter(folder, change):
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_a_layer_that_was_never_trained_is_named(tiny_llama, tmp_path):
    run = Run(tiny_llama, tmp_path)
    name = "model.layers.1.mlp.up_proj"
    change_adapter(tmp_path, lambda state: state[f"base_model.model.{name}.lora_B.weight"].zero_())
    with pytest.raises(UserError, match=f"1 of 14 layers were never trained: {name}"):
        run.merge()
    assert run.merge(allow_untrained=True).num_layers == 14


def test_a_full_model_has_nothing_to_merge(tiny_llama, tmp_path):
    run = Run(tiny_llama, tmp_path, AdapterSpec(), num_steps=1)
    with pytest.raises(UserError, match="nothing to merge"):
        run.merge()


def scale_wrongly(layer, merge):
    layer.scaling["default"] *= 1.01
    merge(layer)


def change_nothing(layer, merge):
    """Marks the layer as merged."""
    layer.merged_adapters.append("default")


@pytest.mark.parametrize("fault", [scale_wrongly, change_nothing])
def test_a_wrong_merge_of_a_layer_is_caught(tiny_llama, tmp_path, monkeypatch, fault):
    run = Run(tiny_llama, tmp_path)
    merge = peft.tuners.lora.Linear.merge
    monkeypatch.setattr(
        peft.tuners.lora.Linear, "merge", lambda layer, safe_merge: fault(layer, merge)
    )
    with pytest.raises(FtError, match="does not compute what the adapter does"):
        run.merge()
    assert not (tmp_path / "merged").exists()


def test_wrongly_written_files_are_caught_and_the_old_merge_stays(
    tiny_llama, tmp_path, monkeypatch
):
    run = Run(tiny_llama, tmp_path)
    run.merge()
    before = (tmp_path / "merged" / "model.safetensors").read_bytes()
    model_class = type(run.trained.model.get_base_model())
    save = model_class.save_pretrained

    def save_one_wrong(model, folder):
        save(model, folder)
        state = load_file(folder / "model.safetensors")
        state["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(model_class, "save_pretrained", save_one_wrong)
    with pytest.raises(FtError, match=r"layers\.0\.mlp\.up_proj\.weight was read back"):
        run.merge()
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.glob(".tmp-*")] == []


def test_a_base_that_changed_meanwhile_is_caught_by_its_answers(tiny_llama, tmp_path):
    """Every layer and every file is right; what they compute together is not the adapter's."""
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    run = Run(base, tmp_path / "run")

    def change_the_base(phase, done, total):
        if phase == "loading the plain base":
            state = load_file(base / "model.safetensors")
            state["model.norm.weight"] *= 4
            save_file(state, base / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(FtError, match="answers differently from the adapter: mean KL"):
        run.merge(on_progress=change_the_base)
    assert not (tmp_path / "run" / "merged").exists()

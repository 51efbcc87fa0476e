"""A checkpoint that is held in few bits already is loaded as it says, or refused before it is."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from few_bits import save_few_bits
from ft.cli.preflight import check_inputs
from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.model.base import load_base
from ft.model.checkpoint_format import check_local_format
from ft.model.skeleton import build_skeleton
from ft.runtime.errors import UserError
from ft.ship.merge import merge_adapter
from ft.spec import load_spec
from ft.spec.runspec import AdapterSpec, ModelSpec
from runs import write_config

CPU = Hardware("cpu", supports_bf16=True)
LORA = AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8)
PROBES = [list(range(3, 30))]


def declared(base, folder, **quantization):
    """A folder whose config.json says that its weights are in another format."""
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder


@pytest.mark.parametrize(
    ("method", "what", "fix"),
    [
        ("gptq", "by GPTQ, which needs gptqmodel and optimum, not installed", "pip install gptq"),
        ("awq", "by AWQ, which needs gptqmodel and optimum, not installed", "pip install gptq"),
        ("torchao", "by torchao, which needs torchao, not installed", "pip install torchao"),
        ("hqq", "by HQQ: transformers 5 does not read HQQ", "name a plain checkpoint"),
    ],
)
def test_a_library_that_is_missing_is_named_at_the_line(
    tmp_path, tiny_llama, monkeypatch, method, what, fix
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    base = declared(tiny_llama, tmp_path / "base", quant_method=method, bits=4)
    config = write_config(tmp_path, base)
    with pytest.raises(UserError) as caught:
        check_inputs(load_spec(config))
    (problem,) = caught.value.problems
    assert what in problem.what
    assert problem.fix.startswith(fix)
    line = int(problem.where.removeprefix(f"{config}:").split(":")[0])
    assert config.read_text().splitlines()[line - 1].startswith("base_model:")


GPTQ = {"quant_method": "gptq", "bits": 4}
TORCHAO_4 = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}},
}


@pytest.mark.parametrize(
    ("quantization", "model", "adapter", "what"),
    [
        (GPTQ, {}, AdapterSpec(), "not trained themselves"),
        ({"quant_method": "bitsandbytes"}, {}, AdapterSpec(), "not trained themselves"),
        (GPTQ, {"load_in_4bit": True}, LORA, "load_in_4bit asks for others"),
        ({"quant_method": "awq"}, {}, AdapterSpec(adapter="ia3"), "this method is not tried"),
        (
            GPTQ,
            {},
            AdapterSpec(adapter="lora", peft_use_dora=True),
            "this method is not tried",
        ),
        (GPTQ | {"bits": 3}, {}, LORA, "by GPTQ, with bits: 3, which is not read here"),
        (
            {"quant_method": "awq", "version": "gemv"},
            {},
            LORA,
            "by AWQ, with version: gemv, which is not read here",
        ),
        ({"quant_method": "eetq"}, {}, LORA, "by eetq, on which nothing is trained here"),
        ({"quant_method": "mxfp4"}, {}, LORA, "by mxfp4, and those are not trained on"),
        (TORCHAO_4, {}, LORA, "as Int4WeightOnlyConfig: torchao trains on 8 bits only"),
    ],
)
def test_what_cannot_be_trained_there_is_refused(
    tmp_path, tiny_llama, monkeypatch, quantization, model, adapter, what
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    base = declared(tiny_llama, tmp_path / "base", **quantization)
    with pytest.raises(UserError, match=what):
        check_local_format(ModelSpec(base_model=str(base), **model), adapter)


@pytest.mark.parametrize(
    ("quantization", "asked"),
    [
        (GPTQ, {"load_in_4bit": True}),
        (GPTQ | {"bits": 8}, {"load_in_8bit": True}),
        ({"quant_method": "awq", "bits": 4}, {"load_in_4bit": True}),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, {"load_in_8bit": True}),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"load_in_4bit": True}),
    ],
)
def test_the_planner_counts_the_bits_that_are_held(
    tmp_path, tiny_llama, monkeypatch, quantization, asked
):
    monkeypatch.setattr("ft.model.base.require_readable", lambda *_: None)  # no package is asked
    base = declared(tiny_llama, tmp_path / "base", **quantization)
    held, made = (
        build_skeleton(model, LORA, Precision(), attention="sdpa").quantized
        for model in (
            ModelSpec(base_model=str(base)),
            ModelSpec(base_model=str(tiny_llama), **asked),
        )
    )
    assert held == made
    assert len(held) == 14


def test_a_library_that_peft_finds_too_old_is_named(tmp_path, tiny_llama, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", {"gptqmodel": "5.8.0", "optimum": "2.1"}.get)
    base = declared(tiny_llama, tmp_path / "base", **GPTQ)
    with pytest.raises(UserError, match="by GPTQ, which needs gptqmodel 7 or later") as caught:
        check_local_format(ModelSpec(base_model=str(base)), LORA)
    assert caught.value.problems[0].fix.startswith("pip install --upgrade gptqmodel")


def test_a_library_that_cannot_be_imported_says_what_it_lacks(tmp_path, tiny_llama, monkeypatch):
    for name in ("gptqmodel", "optimum", "logbar"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import library_of_pictures\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    base = declared(tiny_llama, tmp_path / "base", **GPTQ)
    with pytest.raises(UserError, match="No module named 'library_of_pictures'"):
        load_base(ModelSpec(base_model=str(base)), Precision(), hardware=CPU)


def step_on(base, adapter=LORA):
    """A step on a checkpoint that is quantized itself; the losses before and after."""
    spec = ModelSpec(base_model=str(base))
    loaded = build_model(
        spec, adapter, Precision(), None, load_tokenizer(spec), hardware=CPU, seed=1
    )
    optimizer = torch.optim.AdamW([p for _, p in loaded.trainable_parameters()], lr=1e-2)
    ids = torch.tensor(PROBES)
    losses = []
    for _ in range(3):
        loss = loaded.model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return spec, loaded, losses


def test_a_checkpoint_of_bitsandbytes_trains_and_is_merged_onto_what_it_stands_for(
    tiny_llama, tmp_path
):
    bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    held = AutoModelForCausalLM.from_pretrained(
        tiny_llama, quantization_config=bits, device_map="cpu"
    )
    shutil.copytree(tiny_llama, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    held.save_pretrained(tmp_path / "base")
    spec, loaded, losses = step_on(tmp_path / "base")
    assert losses[-1] < losses[0]
    run = tmp_path / "run"
    loaded.save_weights(run)
    loaded.tokenizer.tokenizer.save_pretrained(run)
    report = merge_adapter(
        run, spec, LORA, Precision(), CPU, out=run / "merged", probe_input_ids=PROBES, dtype="fp32"
    )
    assert report.onto == "dequantized"
    assert report.mean_kl < 1e-6


@pytest.mark.filterwarnings("ignore")  # torchao's own
def test_a_checkpoint_of_torchao_trains_and_says_that_it_is_not_merged(tiny_llama, tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    bits = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    held = AutoModelForCausalLM.from_pretrained(
        tiny_llama, quantization_config=bits, device_map="cpu"
    )
    shutil.copytree(tiny_llama, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    held.save_pretrained(tmp_path / "base")
    spec, loaded, losses = step_on(tmp_path / "base")
    assert losses[-1] < losses[0]
    loaded.save_weights(tmp_path / "run")
    with pytest.raises(UserError, match="by torchao, onto which nothing is merged"):
        merge_adapter(
            tmp_path / "run",
            spec,
            LORA,
            Precision(),
            CPU,
            out=tmp_path / "merged",
            probe_input_ids=PROBES,
        )


@pytest.mark.parametrize("adapter", [LORA, AdapterSpec()], ids=["lora", "all parameters"])
def test_a_checkpoint_in_fp8_is_read_as_the_plain_weights_that_it_stands_for(
    tiny_llama, tmp_path, adapter
):
    weights = save_few_bits(tiny_llama, tmp_path / "base", "fp8")
    spec, loaded, losses = step_on(tmp_path / "base", adapter)
    assert losses[-1] < losses[0]
    frozen = load_base(spec, Precision(), hardware=CPU).model
    read = {name: tensor for name, tensor in frozen.state_dict().items() if name in weights}
    torch.testing.assert_close(read, weights, rtol=0, atol=0)
    loaded.save_weights(tmp_path / "run")
    loaded.tokenizer.tokenizer.save_pretrained(tmp_path / "run")
    out = tmp_path / "run"
    if adapter is LORA:
        out = tmp_path / "merged"
        report = merge_adapter(
            tmp_path / "run", spec, LORA, Precision(), CPU, out=out, probe_input_ids=PROBES
        )
        assert report.onto == "plain"
    saved = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    trained = loaded.model(input_ids=torch.tensor(PROBES)).logits
    torch.testing.assert_close(saved(torch.tensor(PROBES)).logits, trained, rtol=0, atol=0.05)

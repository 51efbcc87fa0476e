from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft.model import Hardware, Precision, check_adapter_folder, check_base, load_base, load_config
from ft.model.base import dequantize, fit_vocabulary
from ft.model.hub import CONFIG, require_on_hub
from ft.runtime.errors import UserError
from ft.spec.runspec import ModelSpec

CPU = Hardware("cpu", supports_bf16=True)


def load(folder, precision=None, **keys):
    return load_base(
        ModelSpec(base_model=str(folder), **keys), precision or Precision(), hardware=CPU
    )


def test_a_local_base_has_no_revision(tiny_llama):
    base = load(tiny_llama)
    assert base.revision is None
    assert base.model.dtype == torch.float32
    assert load(tiny_llama, Precision("bf16", "bf16", "bf16")).model.dtype == torch.bfloat16


def break_folder(folder, fault):
    weights = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if fault == "gone":
        shutil.rmtree(folder)
    elif fault == "config":
        (folder / "config.json").unlink()
    elif fault == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
    elif fault == "weights":
        weights.unlink()
    elif fault == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif fault == "outside":
        index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    elif fault == "shard":
        index.write_text(json.dumps({"weight_map": {"a": "model-00002.safetensors"}}))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gone", "no such folder"),
        ("config", "no config.json"),
        ("adapter", "is an adapter, not a model"),
        ("weights", "has no weights"),
        ("pickle", "pickled weights only"),
        ("outside", "points outside its folder"),
        ("shard", "1 of 1 weight files missing"),
    ],
)
def test_a_folder_that_is_no_model_is_seen_before_loading(tiny_llama, tmp_path, fault, said):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    break_folder(folder, fault)
    with pytest.raises(UserError, match=said):
        check_base(ModelSpec(base_model=str(folder)))


def test_good_folders_and_hub_names_pass_the_cheap_check(tiny_llama):
    check_base(ModelSpec(base_model=str(tiny_llama)))
    check_base(ModelSpec(base_model="meta-llama/Llama-2-7b-hf"))


def test_an_adapter_folder_is_checked_without_loading_a_library(tmp_path):
    adapter = tmp_path / "adapter"
    with pytest.raises(UserError, match="no such folder"):
        check_adapter_folder(str(adapter))
    adapter.mkdir()
    with pytest.raises(UserError, match=r"has no adapter_config\.json"):
        check_adapter_folder(str(adapter))
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(UserError, match="pickled adapters"):
        check_adapter_folder(str(adapter))
    (adapter / "adapter_model.safetensors").touch()
    code = (
        "import sys; from ft.model.base_check import check_adapter_folder;"
        f"check_adapter_folder({str(adapter)!r});"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_cut_weight_file_is_named(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="broken weight file"):
        load(folder)


def test_a_missing_weight_is_never_drawn_at_random(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights.*layers.1.mlp.up_proj"):
        load(folder)


def test_code_of_a_model_repository_is_never_run(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    canary = tmp_path / "canary"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(UserError, match=r"never run|does not know"):
        load(folder)
    assert not canary.exists()


def test_offline_and_not_in_the_cache():
    with pytest.raises(UserError, match="HF_HUB_OFFLINE") as error:
        load_config(ModelSpec(base_model="nobody/nothing-of-the-kind"))
    assert "--base-model FOLDER" in str(error.value)


def test_a_hub_out_of_reach_is_told_at_once_and_a_cached_base_is_used(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="out of reach"):
        require_on_hub("nobody/nothing-of-the-kind", CONFIG, role="base_model")
    snapshot = tmp_path / "models--owner--cached" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--owner--cached" / "refs").mkdir()
    (tmp_path / "models--owner--cached" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    require_on_hub("owner/cached", CONFIG, role="base_model")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for a gated, a private and a missing repository."""

    def do_HEAD(self):
        code = {"gated": "GatedRepo", "private": "RepoNotFound", "moved": "RevisionNotFound"}
        kind = next((kind for kind in code if kind in self.path), "missing")
        status = {"gated": 403, "private": 401, "moved": 404, "missing": 404}[kind]
        self.send_response(status)
        self.send_header("X-Error-Code", code.get(kind, "RepoNotFound"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815

    def log_message(self, *args):
        pass


ASK = """
import sys
from ft.model import load_config
from ft.model.hub import CONFIG, require_on_hub
from ft.runtime.errors import UserError
from ft.spec.runspec import ModelSpec
ways = {
    "load": lambda name: load_config(ModelSpec(base_model=name, revision_of_model="v2")),
    "ask first": lambda name: require_on_hub(name, CONFIG, role="base_model", revision="v2"),
}
for name in ("owner/gated", "owner/private", "owner/missing", "owner/moved"):
    try:
        ways[sys.argv[1]](name)
    except UserError as error:
        print(error, end="\\n---\\n")
"""


@pytest.mark.parametrize("way", ["load", "ask first"])
def test_gated_private_and_missing_bases_say_what_to_do(tmp_path, way):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-c", ASK, way]
    ran = subprocess.run(command, capture_output=True, text=True, env=env)
    server.shutdown()
    thread.join()
    server.server_close()
    gated, private, missing, moved = ran.stdout.split("\n---\n")[:4]
    assert "is gated" in gated
    assert "https://huggingface.co/owner/gated" in gated
    assert "hf auth login" in gated
    assert "hf auth login" in private
    assert "is not on the hub" in missing
    assert "no revision 'v2'" in moved


def test_new_rows_are_the_mean_of_the_old_and_draw_nothing(tiny_llamas):
    for name in ("chatml", "chatml-tied"):
        model = load(tiny_llamas[name]).model
        old = model.get_input_embeddings().weight.detach().clone()
        state = torch.random.get_rng_state()
        assert fit_vocabulary(model, len(old) + 2) == 2
        assert torch.equal(torch.random.get_rng_state(), state)
        new = model.get_input_embeddings().weight
        assert torch.equal(new[: len(old)], old)
        assert torch.equal(new[-1], old.mean(0))
        is_tied = model.get_output_embeddings().weight is new
        assert is_tied == (name == "chatml-tied")
        assert fit_vocabulary(model, len(old) + 2) == 0


@pytest.mark.parametrize(("bits", "tolerance"), [("load_in_4bit", 1e-5), ("load_in_8bit", 5e-2)])
def test_dequantized_layers_are_what_the_quantized_ones_compute(tiny_llama, bits, tolerance):
    model = load(tiny_llama, **{bits: True}).model
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = model(ids).logits
        plain = dequantize(model, torch.float32)
        after = plain(ids).logits
        original = load(tiny_llama).model(ids).logits
    assert not any("bitsandbytes" in type(layer).__module__ for layer in plain.modules())
    assert type(plain.lm_head) is torch.nn.Linear
    assert (after - before).abs().max() < tolerance
    if bits == "load_in_4bit":
        assert (after - original).abs().max() > 1e-3


def test_bits_are_not_reduced_on_mps():
    from ft.model.base import _quantization

    spec = ModelSpec(base_model="x", load_in_4bit=True)
    assert _quantization(spec, Precision(), Hardware("mps"), None) == (
        None,
        ["4-bit weights do not run on MPS: holding them in fp32"],
    )

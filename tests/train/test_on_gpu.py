"""The same runs on a CUDA device: real kernels, half precision, paged optimizers, resume, merge."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tiny
from ft.evaluate.answer import open_answerer
from ft.evaluate.generate import Sampling
from ft.evaluate.trained import open_run
from ft.runtime import Interrupted, MachineError, RunDirectory
from ft.ship.merged import merge_run
from runs import curve, events, run, stop_after, write_config

pytestmark = pytest.mark.gpu

KINDS = {
    "lora bf16": {"bf16": True},
    "qlora fp16, paged": {
        "adapter": "qlora",
        "load_in_4bit": True,
        "fp16": True,
        "optimizer": "paged_adamw_32bit",
    },
    "int8 bf16": {"load_in_8bit": True, "bf16": "auto"},
    "full bf16, fused": {"adapter": None, "learning_rate": 1e-3, "optimizer": "adamw_torch_fused"},
    "full, 8-bit optimizer": {
        "adapter": None,
        "learning_rate": 1e-3,
        "bf16": "full",
        "optimizer": "paged_adamw_8bit",
    },
    "recomputed": {"gradient_checkpointing": "always", "lora_dropout": 0.1},
}


@pytest.mark.parametrize("keys", KINDS.values(), ids=KINDS.keys())
def test_trains_stops_and_goes_on(tmp_path, tiny_llama, keys):
    keys = {"num_epochs": 3, "val_set_size": 3, "eval_steps": 4, **keys}
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, tiny_llama, **keys)
    run(tmp_path / "straight" / "run.yml")
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped" / "run.yml", on_event=stop_after(5))
    run(tmp_path / "stopped" / "run.yml")
    (model,) = events(tmp_path / "straight" / "out", "model")
    assert model["attention"] in ("ft_varlen", "flash_attention_2")
    straight, stopped = (torch.tensor(curve(tmp_path / n / "out")) for n in ("straight", "stopped"))
    assert straight[-1, 1] < straight[0, 1]
    torch.testing.assert_close(stopped[:, 1], straight[:, 1], rtol=2e-3, atol=0)


@pytest.mark.parametrize("is_packed", [False, True], ids=["records", "packs"])
def test_flat_trains_like_padded(tmp_path, tiny_llama, is_packed):
    """The variable-length kernel against SDPA with a mask, in bf16."""
    curves = {}
    for attention in ("varlen", "sdpa"):
        folder = tmp_path / attention
        folder.mkdir()
        keys = {"attn_implementation": attention, "bf16": True, "num_epochs": 4}
        keys["sample_packing"] = is_packed
        run(write_config(folder, tiny_llama, **keys))
        curves[attention] = torch.tensor(curve(folder / "out"))[:, 1]
    torch.testing.assert_close(curves["varlen"], curves["sdpa"], rtol=5e-3, atol=0)


def test_merges_and_answers(tmp_path, tiny_llama):
    run(
        write_config(
            tmp_path, tiny_llama, num_epochs=20, adapter="qlora", load_in_4bit=True, bf16=True
        )
    )
    merge_run(RunDirectory(tmp_path / "out"), onto="dequantized", on_event=lambda event: None)
    record = {"question": "How many?", "context": "CREATE TABLE t1 (c0 INTEGER)"}
    for folder in (tmp_path / "out", tmp_path / "out" / "merged"):
        answerer = open_answerer(open_run(folder))
        prompt = answerer.prompt(record, text=None)
        assert answerer.loaded.device.type == "cuda"
        pieces = list(answerer.stream(prompt, Sampling(max_new_tokens=8)))
        assert "".join(pieces) == answerer.answer(prompt, Sampling(max_new_tokens=8))


FAST = {"bf16": True, "num_epochs": 6, "learning_rate": 1e-3}


@pytest.mark.parametrize("bits", [16, 4], ids=["lora", "qlora"])
def test_compiled_trains_like_uncompiled(tmp_path, tiny_llama, bits):
    """The same losses to rounding, whether layers are compiled, kept, recomputed or none of it."""
    curves = {}
    ways = {
        "plain": {"torch_compile": False},
        "compiled": {},
        "compiled, recomputed": {"gradient_checkpointing": "always"},
        "compiled, dropout": {"lora_dropout": 0.1},
    }
    for name, keys in ways.items():
        folder = tmp_path / name
        folder.mkdir()
        run(write_config(folder, tiny_llama, load_in_4bit=bits == 4, **FAST, **keys))
        told = [event["text"] for event in events(folder / "out", "line")]
        assert not [text for text in told if "uncompiled" in text]
        curves[name] = torch.tensor(curve(folder / "out"))[:, 1]
    for name in ("compiled", "compiled, recomputed"):
        torch.testing.assert_close(curves[name], curves["plain"], rtol=3e-3, atol=0, msg=name)
    assert curves["compiled, dropout"][-1] < curves["compiled, dropout"][0]


def test_recomputes_where_memory_asks_and_gives_the_same_losses(tmp_path):
    """The card's memory is limited for the process, twice; the second time nothing fits."""
    base = save_wide_llama(tmp_path / "base")
    keys = {
        "num_records": 64, "sample_packing": True, "sequence_len": 2048, "bf16": True,
        "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 3,
    }  # fmt: skip
    config = write_config(tmp_path, base, **keys)
    run(config)
    plain, (plan,) = torch.tensor(curve(tmp_path / "out"))[:, 1], events(tmp_path / "out", "plan")
    assert plan["num_recomputed"] == 0
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.6 * plan["peak_bytes"] / total)
        run(config, overwrite=True)
        (plan,) = events(tmp_path / "out", "plan")
        assert plan["num_recomputed"] > 0
        limited = torch.tensor(curve(tmp_path / "out"))[:, 1]
        torch.testing.assert_close(limited, plain, rtol=2e-3, atol=0)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.05 * plan["peak_bytes"] / total)
        with pytest.raises(MachineError, match="memory"):
            run(config, overwrite=True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def save_wide_llama(folder):
    """Large enough that its activations are what fills memory: about 6 GiB."""
    tiny.save_tiny_llama(folder)
    config = LlamaConfig.from_pretrained(
        folder, hidden_size=1024, intermediate_size=4096, num_hidden_layers=16,
        num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=2048,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder

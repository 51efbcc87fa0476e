"""Every way to tune: it trains, goes on bit for bit, and is what peft loads."""

from __future__ import annotations

import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from ft.evaluate.trained import open_run
from ft.runtime.errors import Interrupted
from method_cases import CASES
from runs import curve, events, run, stop_after, write_config

IDS = torch.arange(3, 35)[None]
STEPS = {"max_steps": 6, "num_records": 8, "save_strategy": "no", "val_set_size": 0.25}


def logits_of(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def base_for(folder, keys):
    if not keys.get("load_in_4bit"):
        return AutoModelForCausalLM.from_pretrained(folder)
    bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=bits, device_map="cpu")


@pytest.mark.parametrize("name", CASES)
def test_it_trains_goes_on_bit_for_bit_and_peft_loads_it(name, tmp_path, tiny_llama):
    keys = {**STEPS, **CASES[name]}
    if keys["adapter"] == "qlora":
        keys["load_in_4bit"] = True
    (tmp_path / "straight").mkdir()
    (tmp_path / "stopped").mkdir()
    straight = write_config(tmp_path / "straight", tiny_llama, **keys)
    stopped = write_config(tmp_path / "stopped", tiny_llama, **keys)
    run(straight)
    with pytest.raises(Interrupted):
        run(stopped, on_event=stop_after(3))
    run(stopped)
    out = tmp_path / "straight" / "out"
    assert curve(tmp_path / "stopped" / "out") == curve(out)
    losses = [loss for _, loss, _, _ in curve(out)]
    assert losses[-1] < losses[0]
    heldout = [e["eval_loss"] for e in events(out, "evaluation")]
    assert heldout[-1] < heldout[0]
    one, two = (
        load_file(tmp_path / each / "out" / "adapter_model.safetensors")
        for each in ("straight", "stopped")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    loaded = open_run(out).load()
    with loaded.inference() as model:
        ours = logits_of(model)
    base = base_for(tiny_llama, keys)
    theirs = logits_of(PeftModel.from_pretrained(base, str(out)).eval())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    shutil.rmtree(tmp_path)

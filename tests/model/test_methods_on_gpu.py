"""Every way to tune on CUDA as `ft train` runs it there: bf16, and the kernels of the card."""

from __future__ import annotations

import pytest

import method_cases
from ft.evaluate.generate import Sampling, generate
from ft.evaluate.trained import open_run
from model.test_methods import WITHOUT_LORA
from runs import events, run, write_config

pytestmark = pytest.mark.gpu
CELLS = [(n, s) for n, s in method_cases.ACCEPTED if s in ("plain", "4 bits", "recomputed")]


@pytest.mark.parametrize(("name", "setting"), CELLS)
def test_it_trains_and_answers(name, setting, tmp_path, tiny_llama):
    keys = method_cases.config_of(name, setting, max_steps=12, num_records=12, val_set_size=0.25)
    out = tmp_path / "out"
    config = write_config(tmp_path, tiny_llama, **(WITHOUT_LORA | keys | {"bf16": "auto"}))
    run(config)
    (start,) = events(out, "start")
    assert start["device"] == "cuda"
    heldout = [event["eval_loss"] for event in events(out, "evaluation")]
    assert heldout[-1] < heldout[0]
    loaded = open_run(out).load()
    pad = loaded.tokenizer.tokenizer.pad_token_id
    sampling = Sampling(max_new_tokens=4)
    prompts = [list(range(5, 25)), [9, 8, 7]]
    with loaded.inference() as model:
        answers = generate(model, prompts, sampling, stop_token_ids=[], pad_token_id=pad)
    assert [len(answer) for answer in answers] == [4, 4]

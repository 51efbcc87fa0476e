"""`ft plan` as it is typed, on a machine without a GPU."""

import json

import pytest
import torch
from transformers import LlamaConfig

from ft.cli import main
from runs import write_config
from tiny import llama_tokenizer

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="plans for the GPU that is here")

FULL = dict.fromkeys(["adapter", "lora_r", "lora_alpha", "lora_target_linear"])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Llama-2-7B's config and a tokenizer; no weights."""
    folder = tmp_path_factory.mktemp("seven") / "base"
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    llama_tokenizer().save_pretrained(folder)
    return folder


def plan(config, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["plan", str(config), *arguments])
    return end.value.code


def test_a_named_card_tells_memory_plan_time_and_cost(tmp_path, base, capsys):
    config = write_config(
        tmp_path, base, adapter="qlora", load_in_4bit=True, bf16=True, lora_r=32,
        special_tokens={"pad_token": "</s>"},
    )  # fmt: skip
    assert plan(config, "--gpu", "a100-40gb", "--price", "2.5") == 0
    said = capsys.readouterr().out
    assert "gpu:    a100-40gb, 39.4 GiB" in said
    assert "base weights           3.6 GiB" in said
    assert "0 of 32 layers need recomputing here, 32 keep their dequantized weights" in said
    assert "tokens/s" in said
    assert "at 2.5 an hour" in said


def test_a_tiny_model_is_told_in_units_that_fit(tmp_path, tiny_llama, capsys):
    assert plan(write_config(tmp_path, tiny_llama), "--gpu", "a100-40gb") == 0
    said = capsys.readouterr().out
    assert "KiB" in said
    assert "MiB" in said
    assert "0.0 GiB" not in said


def test_without_a_gpu_usual_cards_are_compared(tmp_path, base, capsys):
    config = write_config(tmp_path, base, bf16=True, special_tokens={"pad_token": "</s>"}, **FULL)
    assert plan(config) == 0
    header, columns, *rows = capsys.readouterr().out.splitlines()[-7:]
    assert header.startswith("no CUDA GPU here")
    assert columns.split()[:2] == ["gpu", "memory"]
    assert [row.split()[0] for row in rows] == [
        "rtx-4090", "a100-40gb", "rtx-a6000", "h100-80gb", "h200",
    ]  # fmt: skip
    assert "no: " in rows[0]  # 7B whole in fp32: 16 bytes a weight
    assert "no: " not in rows[4]


def test_what_does_not_fit_exits_3_with_a_change(tmp_path, base, capsys):
    config = write_config(tmp_path, base, bf16=True, special_tokens={"pad_token": "</s>"}, **FULL)
    assert plan(config, "--gpu", "l40s") == 3
    said = capsys.readouterr()
    assert "the least that it takes" in said.out
    assert "the run needs at least" in said.err
    assert "--optimizer adamw_bnb_8bit --bf16 full (peak about" in said.err


def test_json_holds_the_same(tmp_path, base, capsys):
    config = write_config(tmp_path, base, bf16=True, special_tokens={"pad_token": "</s>"})
    assert plan(config, "--gpu", "h100-80gb", "--json") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["fits"] is True
    parts = told["plan"]["parts"]
    assert told["plan"]["peak_bytes"] == pytest.approx(sum(parts.values()), abs=10)
    assert told["total_time_s"] == pytest.approx(
        told["num_steps"] * told["plan"]["step_time_s"], rel=1e-6
    )


def test_a_card_that_nobody_knows_lists_near_ones(tmp_path, base, capsys):
    config = write_config(tmp_path, base)
    assert plan(config, "--gpu", "a100-48gb") == 2
    assert "one of a100-40gb, a100-80gb" in capsys.readouterr().err

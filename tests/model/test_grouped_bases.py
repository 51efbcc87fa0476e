"""Bases of GPTQ and AWQ: what their files stand for is what is trained on, kept, merged, counted.

The files are written by hand (few_bits.py), so that the layouts are tested too. gptqmodel, with
which transformers reads them, is not required of the project: where it is missing this is skipped.
"""

from __future__ import annotations

import gc
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from few_bits import save_few_bits
from ft.evaluate.answer import open_answerer
from ft.evaluate.generate import Sampling
from ft.evaluate.trained import open_run
from ft.model import Hardware, Precision, build_model, load_tokenizer
from ft.runtime import Interrupted, RunDirectory
from ft.ship.merged import merge_run
from ft.spec.runspec import AdapterSpec, ModelSpec
from runs import curve, run, stop_after, write_config

pytest.importorskip("gptqmodel", reason="needs pip install gptqmodel optimum")
pytest.importorskip("optimum", reason="needs pip install gptqmodel optimum")

pytestmark = [  # gptqmodel leaves a folder for temporary files with each GPTQ model, to be collected
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CPU = Hardware("cpu", supports_bf16=True)
BF16 = Precision("bf16", "bf16", "bf16")
LORA = AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True)
IDS = torch.arange(3, 43)[None]


@pytest.fixture(scope="module", params=["gptq", "awq"])
def bases(request, tiny_llama, tmp_path_factory):
    """A base in few bits, and one that holds the same in plain weights."""
    root = tmp_path_factory.mktemp(request.param)
    weights = save_few_bits(tiny_llama, root / "few", request.param)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.load_state_dict(weights)
    model.save_pretrained(root / "plain")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(root / "plain")
    return root / "few", root / "plain"


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Nothing of it is left to other tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def build(base, adapter=LORA, precision=Precision()):  # noqa: B008  # frozen
    spec = ModelSpec(base_model=str(base))
    return build_model(spec, adapter, precision, None, load_tokenizer(spec), hardware=CPU, seed=1)


def step(loaded):
    """The loss of a text, and what the trained parameters learn from it."""
    loaded.model.zero_grad()
    with loaded.autocast():
        loss = loaded.model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in loaded.trainable_parameters()}
    return loss.detach(), gradients


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")], ids=["all", "some"])
@pytest.mark.parametrize("precision", [Precision(), BF16], ids=["fp32", "bf16"])
def test_it_learns_as_on_the_plain_weights_that_it_stands_for(bases, precision, targets):
    lora = LORA.model_copy(
        update={"lora_target_modules": targets, "lora_target_linear": not targets}
    )
    few, plain = (build(base, lora, precision) for base in bases)
    started = dict(few.trainable_parameters())
    for name, parameter in plain.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
        started[name].data.copy_(parameter)
    torch.testing.assert_close(step(few), step(plain))
    assert few.num_parameters == plain.num_parameters


def test_layers_that_are_recomputed_or_kept_compute_the_same(bases):
    few = build(bases[0])
    expected = step(few)
    num_bytes = few.execution.set(recomputed_layers=[0], kept_layers=[1])
    assert num_bytes == 4 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 128)
    torch.testing.assert_close(step(few), expected, rtol=0, atol=0)
    assert few.execution.set(recomputed_layers=[], kept_layers=[]) == 0
    torch.testing.assert_close(step(few), expected, rtol=0, atol=0)


def test_an_evaluation_in_between_changes_nothing(bases):
    """The library's own layers repack themselves for use when they are first asked in bf16."""
    asked, other = build(bases[0], precision=BF16), build(bases[0], precision=BF16)
    with asked.inference() as model:
        model(input_ids=IDS)
    torch.testing.assert_close(step(asked), step(other), rtol=0, atol=0)


def test_a_run_stops_resumes_answers_and_is_merged(bases, tmp_path):
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole, stopped = (write_config(folder, bases[0], num_epochs=2) for folder in folders)
    run(whole)
    with pytest.raises(Interrupted):
        run(stopped, on_event=stop_after(4))
    run(stopped)
    out, resumed = (folder / "out" for folder in folders)
    assert curve(resumed) == curve(out)
    assert curve(out)[-1][1] < curve(out)[0][1]
    weights, others = (load_file(each / "adapter_model.safetensors") for each in (out, resumed))
    torch.testing.assert_close(weights, others, rtol=0, atol=0)

    trained = open_answerer(open_run(out))
    assert isinstance(
        trained.answer(trained.prompt({"context": "x"}, text="Count"), Sampling(max_new_tokens=4)),
        str,
    )

    plain = AutoModelForCausalLM.from_pretrained(bases[1])
    expected = PeftModel.from_pretrained(plain, out)(IDS).logits
    merge_run(RunDirectory(out), onto="dequantized", on_event=lambda event: None)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32)
    torch.testing.assert_close(merged(IDS).logits, expected, rtol=0, atol=0.02)

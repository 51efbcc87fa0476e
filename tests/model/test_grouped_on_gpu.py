"""Bases of GPTQ and AWQ on CUDA: compiled, in bf16, and as `ft train` runs them there."""

from __future__ import annotations

import pytest
import torch

from few_bits import save_few_bits
from ft.evaluate.answer import open_answerer
from ft.evaluate.generate import Sampling
from ft.model import Hardware, Precision, build_model, load_tokenizer, probe_hardware
from ft.runtime import Interrupted, RunDirectory
from ft.ship.merged import merge_run
from ft.spec.runspec import AdapterSpec, ModelSpec
from runs import curve, run, stop_after, write_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # gptqmodel's folders
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytest.importorskip("gptqmodel", reason="needs pip install gptqmodel optimum")
pytest.importorskip("optimum", reason="needs pip install gptqmodel optimum")

BF16 = Precision("bf16", "bf16", "bf16")
LORA = AdapterSpec(adapter="lora", lora_r=4, lora_alpha=8, lora_target_linear=True)
IDS = torch.arange(3, 43)[None]


@pytest.fixture(params=["gptq", "awq"])
def base(request, tiny_llama, tmp_path):
    save_few_bits(tiny_llama, tmp_path / "few", request.param)
    return tmp_path / "few"


def build(base, hardware, precision):
    spec = ModelSpec(base_model=str(base))
    loaded = build_model(
        spec, LORA, precision, None, load_tokenizer(spec), hardware=hardware, seed=1
    )
    for number, (_, parameter) in enumerate(loaded.trainable_parameters()):
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data.copy_(values / 10)
    return loaded


def step(loaded):
    loaded.model.zero_grad()
    ids = IDS.to(loaded.device)
    with loaded.autocast():
        loss = loaded.model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach().cpu(), {n: p.grad.cpu() for n, p in loaded.trainable_parameters()}


def test_it_learns_as_on_the_cpu_however_it_is_run(base):
    expected_loss, expected = step(build(base, Hardware("cpu", supports_bf16=True), Precision()))
    loaded = build(base, probe_hardware(), BF16)
    runs = [step(loaded)]
    loaded.execution.set(recomputed_layers=[0], kept_layers=[1])
    runs.append(step(loaded))
    loaded.execution.set(recomputed_layers=[], kept_layers=[])
    loaded.execution.compile()
    runs.append(step(loaded))
    for loss, gradients in runs:
        torch.testing.assert_close(loss, expected_loss, rtol=5e-3, atol=0)
        for name, gradient in gradients.items():
            error = (gradient - expected[name]).norm() / expected[name].norm()
            assert error < 0.1, name  # bf16 on one side


def test_everything_else_is_read_in_the_format_of_the_run(base):
    """Beside AWQ transformers reads fp16 on CUDA, whatever is asked."""
    loaded = build(base, probe_hardware(), BF16)
    frozen = [p for p in loaded.model.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_a_run_stops_resumes_answers_and_is_merged(base, tmp_path):
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    keys = {"num_epochs": 3, "bf16": "auto"}
    whole, stopped = (write_config(folder, base, **keys) for folder in folders)
    run(whole)
    with pytest.raises(Interrupted):
        run(stopped, on_event=stop_after(4))
    run(stopped)
    out, resumed = (torch.tensor(curve(folder / "out")) for folder in folders)
    assert out[-1, 1] < out[0, 1]
    torch.testing.assert_close(resumed[:, 1], out[:, 1], rtol=2e-3, atol=0)
    trained = open_answerer(folders[0] / "out")
    prompt = trained.prompt({"context": "x"}, text="Count")
    assert isinstance(trained.answer(prompt, Sampling(max_new_tokens=4)), str)
    merge_run(RunDirectory(folders[0] / "out"), onto="dequantized", on_event=lambda event: None)

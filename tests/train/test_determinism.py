"""`deterministic: true`: what it switches, and what is said of an operation that has no such form."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ft.runtime import MachineError
from ft.train.determinism import computing_deterministically, deterministic_algorithms
from runs import curve, run, write_config


def test_it_is_on_within_the_block_and_off_behind_it():
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_an_operation_without_such_a_form_is_named():
    """On a CPU torch has one as well: `put_` may write a place twice, in any order."""
    places, values = torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
    said = "deterministic: true, but put_"
    with pytest.raises(MachineError, match=said) as caught, deterministic_algorithms():
        torch.zeros(2).put_(places, values)
    assert caught.value.exit_code == 3
    assert not torch.are_deterministic_algorithms_enabled()


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="on purpose"), deterministic_algorithms():
        raise RuntimeError("on purpose")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it is switched on")
def test_a_cpu_is_left_alone(tmp_path, tiny_llama):
    with computing_deterministically(True):
        assert not torch.are_deterministic_algorithms_enabled()
    for name, is_asked_for in (("with", True), ("without", False)):
        (tmp_path / name).mkdir()
        run(write_config(tmp_path / name, tiny_llama, max_steps=3, deterministic=is_asked_for))
    assert curve(tmp_path / "with" / "out") == curve(tmp_path / "without" / "out")


ON_A_CARD = """
import json, sys
from pathlib import Path
import pytest
from ft.runtime import Interrupted
from ft.runtime.durable import sha256_of
from runs import curve, run, stop_after, write_config

def finish(folder, base, keys, stop=None):
    folder.mkdir(parents=True)
    config = write_config(folder, base, **keys)
    if stop is not None:
        with pytest.raises(Interrupted):
            run(config, on_event=stop_after(stop))
    run(config)
    return [curve(folder / "out"), sha256_of(folder / "out" / "adapter_model.safetensors")]

folder, base, keys = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
exact = keys | {"deterministic": True}
result = {
    "straight": finish(folder / "straight", base, exact),
    "resumed": finish(folder / "resumed", base, exact, stop=4),
    "repeats": [finish(folder / f"repeat{i}", base, keys) for i in range(3)],
    "resumed_without": finish(folder / "resumed_without", base, keys, stop=4),
}
print("RESULT" + json.dumps(result))
"""
"""In a process of its own: cuBLAS reads its setting once."""

KINDS = {
    "lora": {"bf16": True},
    "qlora": {"adapter": "qlora", "load_in_4bit": True, "bf16": True},
}


@pytest.mark.gpu
@pytest.mark.parametrize("keys", KINDS.values(), ids=KINDS.keys())
def test_a_resumed_run_on_a_card(tmp_path, tiny_llama, keys):
    """With the key: the same bits. Without: no farther off than uninterrupted runs are apart."""
    keys = keys | {"num_epochs": 2, "lora_dropout": 0.1, "val_set_size": 3, "eval_steps": 2}
    tests = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", ON_A_CARD, str(tmp_path), str(tiny_llama), json.dumps(keys)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.partition("RESULT")[2])
    assert len(result["straight"][0]) == 8
    assert result["resumed"] == result["straight"]
    repeats = torch.tensor([each[0] for each in result["repeats"]], dtype=torch.float64)
    resumed = torch.tensor(result["resumed_without"][0], dtype=torch.float64)
    lowest, highest = repeats.amin(0), repeats.amax(0)
    spread = (highest - lowest).amax(0)  # of loss, rate and norm, at the step where it is widest
    outside = torch.maximum(lowest - resumed, resumed - highest).clamp(min=0)
    assert (outside <= spread).all(), (outside, spread)

from __future__ import annotations

import os
import subprocess
import sys

import torch

from ft.model import apply_patches

TRAP = """
def get_kernel(*args, **kwargs):
    raise SystemExit("asked a hub for a kernel")
"""


def test_importing_bitsandbytes_is_silent_and_asks_no_hub(tmp_path):
    (tmp_path / "kernels.py").write_text(TRAP)
    ran = subprocess.run(
        [sys.executable, "-c", "import ft.model.patches, peft, kernels; kernels.get_kernel"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_door_and_the_cheap_check_import_no_tensors():
    code = "import sys; from ft.model import check_base; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_patches_are_named_and_repeatable():
    assert apply_patches() == apply_patches()
    assert len(set(apply_patches())) == len(apply_patches())


def test_evaluation_leaves_4bit_weights_as_they_are():
    import bitsandbytes as bnb

    apply_patches()
    layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer = layer.to("cpu").eval()
    if layer.weight.quant_state is None:
        layer.weight = layer.weight._quantize("cpu")
    before = layer.weight.data.clone()
    with torch.no_grad():
        layer(torch.randn(3, 64))
    assert torch.equal(layer.weight.data, before)

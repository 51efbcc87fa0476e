"""What computes on this machine, tried on a few numbers: a library that is there may not fit.

The libraries must be importable; ``doctor`` looks at that first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_GIB = 2**30
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    works: bool
    detail: str
    """What was found, or why it does not work."""
    fix: str = ""
    """The command or the step that mends it."""
    is_needed: bool = False
    """Whether nothing can be trained without it."""

    def render(self) -> str:
        """One line, and one more for what mends it."""
        lines = [f"{'ok' if self.works else 'no':<3} {self.subject + ':':<19} {self.detail}"]
        return "\n".join([*lines, f"    {self.fix}"] if self.fix else lines)


def try_everything() -> Iterator[Finding]:
    """The device, attention backends, quantization; each by doing a little of it."""
    fix = "pip install --force-reinstall torch transformers peft bitsandbytes"
    loading = tried("libraries", _load_libraries, fix=fix, is_needed=True)
    yield loading
    if loading.works:
        yield from _device()
        yield from _attention()
        yield from _quantization()


def _load_libraries() -> str:
    import_module("torch")
    import_module("ft.model.patches")
    import_module("peft")
    return "torch, transformers, peft and bitsandbytes load"


def _device() -> Iterator[Finding]:
    from ft.model.hardware import probe_hardware

    hardware = probe_hardware()
    memory = f"{hardware.memory_bytes / _GIB:.1f} GiB"
    if hardware.kind == "cuda":
        capability = ".".join(map(str, hardware.capability or ()))
        detail = f"{hardware.name}, {memory}, capability {capability}, driver {_driver()}"
        yield Finding("GPU", True, detail)
    else:
        yield Finding("GPU", False, *_why_no_cuda())
        yield Finding("processor", True, f"{hardware.name}, {memory}")
    yield tried("matrix products", _multiply, is_needed=True)
    bf16 = "autocast in bf16" if hardware.supports_bf16 else "fp16 with a loss scaler, or fp32"
    yield Finding("bf16", hardware.supports_bf16, bf16)


def _driver() -> str:
    text = _DRIVER.read_text(encoding="utf-8") if _DRIVER.is_file() else ""
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else "unknown"


def _why_no_cuda() -> tuple[str, str]:
    """Why torch sees no card, and what mends it."""
    import torch

    has_driver = _DRIVER.is_file()
    if torch.version.cuda is None:
        fix = "pip install --force-reinstall torch  (the build with CUDA)" if has_driver else ""
        return f"torch {torch.__version__} is a build without CUDA", fix
    if not has_driver:
        return "no NVIDIA driver is loaded", "install the driver, then look with nvidia-smi"
    return (
        f"driver {_driver()} is there, but torch (CUDA {torch.version.cuda}) sees no card",
        "look with nvidia-smi; unset CUDA_VISIBLE_DEVICES, or update the driver",
    )


def tried(
    subject: str, attempt: Callable[[], str], *, fix: str = "", is_needed: bool = False
) -> Finding:
    """Does a small piece of the real thing and tells how it went."""
    try:
        return Finding(subject, True, attempt(), is_needed=is_needed)
    except Exception as error:  # noqa: BLE001 - a broken installation fails in any way it likes
        reason = str(error).strip().splitlines() or [""]
        detail = f"{type(error).__name__}: {reason[0]}"[:160]
        return Finding(subject, False, detail, fix, is_needed=is_needed)


def _multiply() -> str:
    import torch

    device = _device_name()
    ones_NN = torch.ones(8, 8, device=device, requires_grad=True)
    torch.autograd.backward((ones_NN @ ones_NN).sum())
    gradient = ones_NN.grad
    if gradient is None or gradient[0, 0].item() != 16:
        raise ArithmeticError("a product of ones has a wrong gradient")
    return f"forward and backward on {device}"


def _device_name() -> str:
    from ft.model.hardware import probe_hardware

    return probe_hardware().kind


def _attention() -> Iterator[Finding]:
    """Each backend for a usual model, in half precision, as `choose_attention` would take it."""
    from ft.model.attention import VARLEN, AttentionTraits, choose_attention
    from ft.model.hardware import probe_hardware

    hardware = probe_hardware()
    for name, implementation, fix in (
        ("flash_attention_2", "flash_attention_2", "pip install flash-attn --no-build-isolation"),
        ("varlen", VARLEN, 'pip install "torch>=2.10"'),
    ):
        choice = choose_attention(name, hardware, AttentionTraits(), compute="bf16")
        works = choice.implementation == implementation
        why = "" if works else choice.reason.removeprefix(f"{name} asked for; ").split("; ")[0]
        mends = fix if not works and hardware.is_ampere_or_later else ""
        yield Finding(name, works, why or "there, for models that allow it", mends)
    yield tried("sdpa", _attend, is_needed=True)


def _attend() -> str:
    import torch

    rows_BHTD = torch.ones(1, 1, 4, 8, device=_device_name())
    torch.nn.functional.scaled_dot_product_attention(rows_BHTD, rows_BHTD, rows_BHTD)
    return "runs, on padded batches"


def _quantization() -> Iterator[Finding]:
    fix = "pip install --upgrade bitsandbytes"
    yield tried("load_in_4bit", _train_through_4bit, fix=fix)
    yield tried("load_in_8bit", _train_through_8bit, fix=fix)
    yield tried("8-bit optimizers", _step_8bit, fix=fix)


def _bitsandbytes() -> Any:
    """The library, behind the patches that keep it from asking a hub for a kernel."""
    import_module("ft.model.patches")
    return import_module("bitsandbytes")


def _train_through_4bit() -> str:
    import torch

    layer = _bitsandbytes().nn.Linear4bit(
        64, 64, bias=False, compute_dtype=torch.float16, quant_type="nf4"
    )
    return _pass_through(layer, "NF4")


def _train_through_8bit() -> str:
    layer = _bitsandbytes().nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    return _pass_through(layer, "LLM.int8")


def _pass_through(layer: Any, title: str) -> str:
    """Quantizes a layer by moving it to the device, and goes forward and backward through it."""
    import torch

    device = _device_name()
    layer.weight.requires_grad_(False)
    row_1N = torch.ones(1, 64, device=device, dtype=torch.float16, requires_grad=True)
    exact = layer.weight.float().sum().item()
    got = layer.to(device)(row_1N).float().sum()
    torch.autograd.backward(got)
    if row_1N.grad is None or not row_1N.grad.isfinite().all():
        raise ArithmeticError("no gradient comes through")
    if abs(got.item() - exact) > 3:
        raise ArithmeticError(f"a sum of {exact:.2f} became {got.item():.2f}")
    return f"{title}: forward and backward on {device}"


def _step_8bit() -> str:
    import torch

    bnb = _bitsandbytes()
    weight = torch.nn.Parameter(torch.ones(4096, device=_device_name()))
    optimizer = bnb.optim.AdamW8bit([weight], lr=0.1, min_8bit_size=1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    if not (weight < 1).all():
        raise ArithmeticError("a step moved nothing")
    return f"a step of AdamW8bit on {_device_name()}"

"""A base of random weights, drawn where it will live, module by module, and quantized as it grows.

The model is first made without memory (torch's meta device). Then each module gets its weights:
drawn as the model's own code draws them, and put in 4 or 8 bits at once where the quantization says
so. So a 7B model in NF4 takes its own 4 GiB and the room of one layer, and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

import ft.model.patches  # noqa: F401  # first: it silences the import of bitsandbytes

# isort: split
import bitsandbytes as bnb


def draw_base(
    make: Callable[[], Any],
    *,
    seed: int,
    dtype: torch.dtype,
    quantization: BitsAndBytesConfig | None,
    draws_on: torch.device,
    device: torch.device,
) -> Any:
    """A model of random weights on ``device``, in evaluation mode.

    Args:
        make: Makes the model, with weights of the generator's as it stands.
        seed: The same one on the same kind of device draws the same weights.
        dtype: Of plain weights.
        quantization: Of linear layers, or None.
        draws_on: Where numbers are drawn: the CPU's are the same everywhere, a GPU's come fast.
        device: Where the model lives.
    """
    generators = [draws_on] if draws_on.type == "cuda" else []
    on_host = draws_on.type == "cpu"
    with torch.no_grad(), torch.random.fork_rng(devices=generators):
        (torch.default_generator.manual_seed if on_host else torch.manual_seed)(seed)
        if quantization is None and on_host:
            return make().eval().to(device)
        model, quantizer = _without_memory(make, quantization, dtype, device)
        _draw(model, model, draws_on, device)
    model.tie_weights()
    if quantizer is not None:
        model.hf_quantizer = quantizer
        quantizer.postprocess_model(model)
    return model.eval()


def _without_memory(
    make: Callable[[], Any],
    quantization: BitsAndBytesConfig | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Any, Any]:
    """The model on the meta device, its layers those of the quantizer; and the quantizer."""
    with torch.device("meta"):
        model = make()
    if quantization is None:
        return model, None
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": device}, dtype=dtype)
    for weight in model.parameters():  # its new layers come in fp32, and what they hold is
        weight.data = weight.data.to(dtype)  # dequantized to the format it was quantized from
    return model, quantizer


def _draw(
    module: nn.Module, owner: PreTrainedModel, draws_on: torch.device, device: torch.device
) -> None:
    """Children first, as transformers does; each by the code of the model that it belongs to."""
    if isinstance(module, PreTrainedModel):
        owner = module
    for child in module.children():
        _draw(child, owner, draws_on, device)
    settings = {
        name: dict(weight.__dict__)
        for name, weight in module._parameters.items()
        if weight is not None
    }
    _make_room(module, draws_on)
    owner._init_weights(module)
    for name, weight in module._parameters.items():
        if weight is not None:
            module._parameters[name] = _placed(module, name, weight, settings[name], device)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = buffer.to(device)


def _make_room(module: nn.Module, device: torch.device) -> None:
    """Memory for the module's own tensors, as plain ones."""
    for name, weight in module._parameters.items():
        if weight is not None and weight.is_meta:
            room = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            module._parameters[name] = nn.Parameter(room, requires_grad=weight.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_meta:
            module._buffers[name] = torch.empty_like(buffer, device=device)


def _placed(
    module: nn.Module,
    name: str,
    weight: nn.Parameter,
    settings: dict[str, Any],
    device: torch.device,
) -> Any:
    """The parameter where it lives; in few bits if its layer is one of bitsandbytes'."""
    if name == "weight" and isinstance(module, bnb.nn.Linear4bit):
        return bnb.nn.Params4bit(weight.data, requires_grad=False, **settings).to(device)
    if name == "weight" and isinstance(module, bnb.nn.Linear8bitLt):
        on_host = weight.data.to("cpu")  # from where bitsandbytes quantizes on the way
        return bnb.nn.Int8Params(on_host, requires_grad=False, has_fp16_weights=False).to(device)
    return nn.Parameter(weight.data.to(device), requires_grad=weight.requires_grad)

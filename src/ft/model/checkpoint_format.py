"""Checkpoints that hold their weights in few bits already: what reads them, and what trains there.

A model's config.json says so (``quantization_config``), and it is loaded as it says. Whether that
can work is told from the config alone, before any weights are read; imports no tensors.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ft.model.base_check import is_local, read_json_object
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import AdapterSpec, ModelSpec

OWN = "bitsandbytes"
"""The format that load_in_4bit and load_in_8bit make: what they can do, its checkpoints can."""


@dataclass(frozen=True)
class _Format:
    title: str
    packages: tuple[str, ...] = ()
    """What must be installed to read it, by the names that are imported."""
    obstacle: str = ""
    """Why it is never read."""
    layouts: Mapping[str, Container[Any]] | None = None
    """Of those that are taken over: the values of its config that ft.kernels.grouped can unpack."""

    @property
    def is_merged(self) -> bool:
        """Whether the plain weights are known."""
        return self is _FORMATS[OWN] or self.layouts is not None


_GPTQ_LAYOUTS = {"bits": (2, 4, 8), "checkpoint_format": (None, "gptq", "gptq_v2")}
_AWQ_LAYOUTS = {"bits": (None, 4), "version": (None, "gemm", "GEMM")}
_FORMATS = {
    OWN: _Format("bitsandbytes"),
    "gptq": _Format("GPTQ", ("gptqmodel", "optimum"), layouts=_GPTQ_LAYOUTS),
    "awq": _Format("AWQ", ("gptqmodel", "optimum"), layouts=_AWQ_LAYOUTS),
    "torchao": _Format("torchao", ("torchao",)),
    "hqq": _Format("HQQ", ("hqq",), "transformers 5 does not read HQQ"),
}
_READ_PLAIN = "fp8"
"""Blocks of 8-bit floats with a scale each, as DeepSeek's and Qwen's are published."""
_OLDEST = {"gptqmodel": 7, "optimum": 1}
"""Major versions that peft asks for."""
_PLAIN = "name a plain checkpoint, with load_in_4bit: true or load_in_8bit: true to hold it so"


def quantization_of(config: Any) -> Mapping[str, Any]:
    """What a model's config says of its weights' format; empty for plain weights."""
    own = getattr(config, "quantization_config", None)
    return own if isinstance(own, Mapping) else {}


def is_held_in_few_bits(quantization: Mapping[str, Any]) -> bool:
    """Whether it is one of the formats that are trained as they are held."""
    return quantization.get("quant_method") in _FORMATS


def ask_for_plain_weights(config: Any) -> bool:
    """Tells a model's config, if its weights are in FP8, to read what they stand for.

    Returns:
        Whether they are.
    """
    quantization: Any = quantization_of(config)
    if quantization.get("quant_method") != _READ_PLAIN:
        return False
    quantization["dequantize"] = True
    return True


def bits_held(quantization: Mapping[str, Any]) -> int:
    """In how many bits a checkpoint's linear layers are, as the planner counts them.

    Returns:
        4, 8, or 0 for weights that are plain or will be: fewer than 4 count as 4.
    """
    if not is_held_in_few_bits(quantization):
        return 0
    if _FORMATS[quantization["quant_method"]] is _FORMATS[OWN]:
        return 8 if quantization.get("load_in_8bit") else 4
    if quantization["quant_method"] == "torchao":
        return 8
    return 8 if quantization.get("bits") == 8 else 4


def check_local_format(model: ModelSpec, adapter: AdapterSpec) -> None:
    """Looks at a base's folder; a hub name is believed until it is loaded.

    Raises:
        UserError: see ``require_format``.
    """
    file = Path(model.base_model).expanduser() / "config.json"
    if is_local(model.base_model) and file.is_file():
        content = read_json_object(file, fix="copy or download the model again")
        quantization = content.get("quantization_config")
        require_format(quantization if isinstance(quantization, dict) else {}, model, adapter)


def require_readable(quantization: Mapping[str, Any], model: ModelSpec) -> None:
    """Refuses a checkpoint's format that can't be read here.

    Raises:
        UserError: its library is missing, or the keys ask for other bits.
    """
    form = _form(quantization, model)
    if form is not None and (problem := _cannot_be_read(form, quantization, model)):
        _refuse(model, *problem)


def require_format(quantization: Mapping[str, Any], model: ModelSpec, adapter: AdapterSpec) -> None:
    """Refuses a checkpoint's format that can't be read here, or not be trained as was asked.

    Raises:
        UserError: its library is missing; the keys ask for other bits; the method is none that
            trains on it; or nothing is known to train on it.
    """
    require_readable(quantization, model)
    form = _form(quantization, model)
    if form is None:
        _require_known(quantization, model)
    elif problem := _cannot_be_trained(form, quantization, adapter):
        _refuse(model, *problem)


def require_mergeable(quantization: Mapping[str, Any], model: ModelSpec) -> None:
    """Refuses a format of which `ft merge` does not know the plain weights.

    Raises:
        UserError: it is none of bitsandbytes', GPTQ's or AWQ's.
    """
    form = _form(quantization, model)
    if form is not None and not form.is_merged:
        what = f"is held in few bits by {form.title}, onto which nothing is merged"
        fix = "use the base and the adapter together, as `ft infer` and peft do"
        _refuse(model, what, fix)


def _require_known(quantization: Mapping[str, Any], model: ModelSpec) -> None:
    method = quantization.get("quant_method")
    if method in (None, _READ_PLAIN) or model.model_quantization_config:
        return
    held = f"holds its weights in few bits, by {method}"
    if method == "mxfp4":
        fix = "set model_quantization_config: Mxfp4Config, which reads what they stand for"
        _refuse(model, f"{held}, and those are not trained on", fix)
    _refuse(model, f"{held}, on which nothing is trained here", _PLAIN)


def _form(quantization: Mapping[str, Any], model: ModelSpec) -> _Format | None:
    if model.model_quantization_config:
        return None
    return _FORMATS.get(str(quantization.get("quant_method")))


def _refuse(model: ModelSpec, what: str, fix: str) -> NoReturn:
    raise UserError(Problem(what, f"base_model: {model.base_model}", fix=fix))


def _cannot_be_read(
    form: _Format, quantization: Mapping[str, Any], model: ModelSpec
) -> tuple[str, str] | None:
    held = f"holds its weights in few bits, by {form.title}"
    if form.obstacle:
        return f"{held}: {form.obstacle}", _PLAIN
    for key, possible in (form.layouts or {}).items():
        if quantization.get(key) not in possible:
            return f"{held}, with {key}: {quantization.get(key)}, which is not read here", _PLAIN
    missing = [name for name in form.packages if importlib.util.find_spec(name) is None]
    if missing:
        what = f"{held}, which needs {' and '.join(missing)}, not installed"
        return what, f"pip install {' '.join(missing)}; or {_PLAIN}"
    old = [name for name in form.packages if _major_version(name) < _OLDEST.get(name, 0)]
    if old:
        what = f"{held}, which needs {old[0]} {_OLDEST[old[0]]} or later"
        return what, f"pip install --upgrade {' '.join(old)}; or {_PLAIN}"
    bits = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
    if form is not _FORMATS[OWN] and (model.load_in_4bit or model.load_in_8bit):
        return f"{held}, and {bits} asks for others", f"set {bits}: false"
    return None


def _cannot_be_trained(
    form: _Format, quantization: Mapping[str, Any], adapter: AdapterSpec
) -> tuple[str, str] | None:
    held = f"holds its weights in few bits, by {form.title}"
    if adapter.adapter is None:
        return f"{held}, and those are not trained themselves", "set adapter: lora"
    if form is _FORMATS[OWN]:
        return None
    is_plain_lora = adapter.adapter in ("lora", "qlora") and not adapter.peft_use_dora
    if not is_plain_lora or isinstance(adapter.peft_init_lora_weights, str):
        what = f"{held}, on which this method is not tried"
        return what, f"use adapter: lora as it is; or {_PLAIN}"
    if form is _FORMATS["torchao"] and "8" not in _torchao_kind(quantization):
        what = f"{held}, as {_torchao_kind(quantization)}: torchao trains on 8 bits only"
        return what, _PLAIN
    return None


def _major_version(package: str) -> int:
    try:
        return int(importlib.metadata.version(package).partition(".")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):  # built from source, maybe
        return max(_OLDEST.values())


def _torchao_kind(quantization: Mapping[str, Any]) -> str:
    kind = quantization.get("quant_type")
    default = kind.get("default", kind) if isinstance(kind, Mapping) else kind
    return str(default.get("_type", default) if isinstance(default, Mapping) else default)

"""The one door for changes to other people's libraries, and the way in for bitsandbytes and peft.

Whoever needs either library imports this module first, because peft imports bitsandbytes, and
bitsandbytes asks a hub for a CPU kernel when it is imported on its own. Everything that is changed
is a ``Patch`` with its reason and the day on which it may go; nothing else in the program assigns
to a library's attributes.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import transformers
from torch.nn.utils import parametrize


@contextmanager
def _without_hub_kernels() -> Iterator[None]:
    """Hides the package ``kernels`` and the complaint about its absence.

    On a CPU with AVX512-bf16, importing bitsandbytes downloads native code through ``kernels`` and
    loads it; without ``kernels`` it warns. The kernel serves inference in a packed format that the
    first patch below turns off, so nothing is lost.
    """
    complaint = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level, kernels = complaint.level, sys.modules.get("kernels")
    complaint.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        yield
    finally:
        complaint.setLevel(level)
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels


with _without_hub_kernels():
    import bitsandbytes.autograd._functions
    import bitsandbytes.nn.modules


def import_gptqmodel() -> None:
    """The package that reads GPTQ and AWQ, without its word of itself and its settings.

    On import it prints, and sets CUDA's allocation and order of cards for this process and those
    that it starts.
    """
    if "gptqmodel" in sys.modules:
        return
    before = dict(os.environ)
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("logbar").LogBar.shared().setLevel(logging.ERROR)
        importlib.import_module("gptqmodel")
    for name in set(os.environ) - set(before):
        del os.environ[name]


@dataclass(frozen=True)
class Patch:
    """One change to a library: what, why, until when, and the (repeatable) act itself."""

    name: str
    reason: str
    remove_when: str
    apply: Callable[[], None]


def _never_repack_4bit() -> None:
    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False


def _never_ask_for_conversion() -> None:
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"


def _accept_int8_casts() -> None:
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast from")
    functions = logging.getLogger(bitsandbytes.autograd._functions.__name__)
    if not any(isinstance(known, _Int8CastFilter) for known in functions.filters):
        functions.addFilter(_Int8CastFilter())


def _accept_old_checkpointing_name() -> None:
    names = "is_gradient_checkpointing|gradient_checkpointing_enable"
    warnings.filterwarnings("ignore", message=f".({names}). is deprecated")


def _draw_no_bars() -> None:
    transformers.logging.disable_progress_bar()


def _accept_what_compilers_warn_of() -> None:
    for message in (
        r"\s*Online softmax is disabled",
        r".torch\.jit\.script_method. is deprecated",
        r".*should not be instantiated\. Methods on autograd functions",
        r"The \.grad attribute of a Tensor that is not a leaf Tensor",
    ):
        warnings.filterwarnings("ignore", message=message)


def _accept_tied_targets() -> None:
    warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`")


def _accept_old_cache_name() -> None:
    warnings.filterwarnings("ignore", message="`past_key_values` is deprecated")


def _accept_rslora_patterns() -> None:
    warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern")


def _accept_boft_without_kernel() -> None:
    warnings.filterwarnings("ignore", message="Failed to load the CUDA extension")
    warnings.filterwarnings("ignore", message="Setting boft_n_butterfly_factor to 1 to speed up")


def _adapt_quantized_parameters() -> None:
    from peft.tuners.lora.layer import ParamWrapper

    if getattr(ParamWrapper, "_takes_parametrized", False):
        return
    activate = ParamWrapper._activate_lora

    @contextmanager
    def activate_unmasked(self: Any, active_adapters: list[str]) -> Iterator[None]:
        with activate(self, active_adapters):
            parametrize._cache.pop((id(self.get_base_layer()), self.parameter_name), None)
            yield

    def remove_own(self: Any) -> None:
        base, name = self.get_base_layer(), self.parameter_name
        stack = base.parametrizations[name]
        if len(stack) == 1:
            parametrize.remove_parametrizations(base, name, leave_parametrized=False)
        else:
            del stack[len(stack) - 1]

    ParamWrapper._activate_lora = activate_unmasked
    ParamWrapper._remove_parametrizations = remove_own
    ParamWrapper._takes_parametrized = True


def _leave_gptqmodel_where_it_is_not_needed() -> None:
    from peft.tuners.lora import awq, gptq

    for module in (awq, gptq):
        module.is_gptqmodel_available = lambda: "gptqmodel" in sys.modules


class _Int8CastFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast from")


PATCHES = (
    Patch(
        name="bitsandbytes: keep 4-bit weights as they are on AVX512-bf16 CPUs",
        reason="one forward pass in evaluation mode repacks Linear4bit for good, with other "
        "rounding: a run that evaluates would differ from one that does not",
        remove_when="Linear4bit packs a copy, or can be told not to",
        apply=_never_repack_4bit,
    ),
    Patch(
        name="transformers: never ask a hub service to convert pickled weights",
        reason="loading must not start jobs elsewhere; pickled weights are refused with a sentence",
        remove_when="from_pretrained takes an argument for it",
        apply=_never_ask_for_conversion,
    ),
    Patch(
        name="bitsandbytes: no word about 8-bit layers casting their inputs to fp16",
        reason="that is how LLM.int8 works; it says so once a layer and step",
        remove_when="the message is gone",
        apply=_accept_int8_casts,
    ),
    Patch(
        name="transformers: no word about its old names for gradient checkpointing",
        reason="peft 0.21 asks by the names that transformers 5.2x replaces, so do we: 5.17 has "
        "no other",
        remove_when="peft reads is_activation_checkpointing, and our floor has the new names",
        apply=_accept_old_checkpointing_name,
    ),
    Patch(
        name="transformers: no progress bars of its own",
        reason="they are drawn into ours, and into logs",
        remove_when="never: it is a setting",
        apply=_draw_no_bars,
    ),
    Patch(
        name="torch: no word of its compiler about its own code",
        reason="the user can change nothing about it, and warnings that are errors end compilation",
        remove_when="torch.compile is silent about itself",
        apply=_accept_what_compilers_warn_of,
    ),
    Patch(
        name="peft: no word about an adapter on one of two tied embeddings",
        reason="it fears for the merge, which unties them (ft.ship.merge)",
        remove_when="peft unties them itself",
        apply=_accept_tied_targets,
    ),
    Patch(
        name="transformers: no word about its old name for a cache",
        reason="peft 0.21 hands prefixes over by the name that transformers 5.24 replaces",
        remove_when="peft says cache=",
        apply=_accept_old_cache_name,
    ),
    Patch(
        name="peft: no word about rsLoRA with patterns and PiSSA",
        reason="it concerns peft's own conversion to plain LoRA, which ft does itself",
        remove_when="peft converts them",
        apply=_accept_rslora_patterns,
    ),
    Patch(
        name="peft: no word about BOFT without its CUDA extension",
        reason="peft computes the same without it; what it says of the factor concerns a kernel",
        remove_when="peft ships the extension, or asks before it builds one",
        apply=_accept_boft_without_kernel,
    ),
    Patch(
        name="peft: adapters on parameters that are held in few bits",
        reason="over a parametrized tensor, peft 0.21 reads the value that was cached before its "
        "adapter came, and takes nothing off again afterwards",
        remove_when="ParamWrapper removes _LoraFactorsProxy and does not read from the cache",
        apply=_adapt_quantized_parameters,
    ),
    Patch(
        name="peft: gptqmodel is not imported for a base that is not its own",
        reason="peft asks it about each layer of any base; its import takes seconds, changes other "
        "libraries and the environment, and fails without optimum",
        remove_when="peft looks whether the base is quantized first",
        apply=_leave_gptqmodel_where_it_is_not_needed,
    ),
)


def apply_patches() -> list[str]:
    """Applies every patch; a second call changes nothing.

    Returns:
        The names of the patches, for the run's record.
    """
    for patch in PATCHES:
        patch.apply()
    return [patch.name for patch in PATCHES]

"""Optimizers by the dialect's names."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from ft.plan import OptimizerNeed
from ft.runtime.errors import Problem, UserError
from ft.spec import TrainingSpec


@dataclass(frozen=True)
class _Kind:
    """Where an optimizer comes from and what it takes."""

    module: str
    cls: str
    takes_betas: bool = True
    takes_eps: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    further_betas: tuple[float, ...] = ()
    """Behind adam_beta1 and adam_beta2."""
    unpaged: str = ""
    """Its name without paging, which only CUDA has."""
    small: str = ""
    """The optimizer of the same arithmetic that takes its place while its state is small."""
    library: str = ""
    """What must be installed for it, beyond what ft requires."""
    state_bytes: float = 8.0
    """Of state a trained weight; vectors and small matrices may take more."""


_BNB = "bitsandbytes.optim"
_THREE_BETAS = (0.9999,)

OPTIMIZERS: dict[str, _Kind] = {
    "adamw_torch": _Kind("torch.optim", "AdamW"),
    "adamw_torch_fused": _Kind("torch.optim", "AdamW", extra={"fused": True}),
    "adamw_torch_4bit": _Kind(
        "ft.train.four_bit", "PlainAdamW4bit", library="torchao", state_bytes=1.0
    ),
    "sgd": _Kind("torch.optim", "SGD", takes_betas=False, takes_eps=False, state_bytes=0.0),
    "rmsprop": _Kind("torch.optim", "RMSprop", takes_betas=False, state_bytes=4.0),
    "adagrad": _Kind("torch.optim", "Adagrad", takes_betas=False, state_bytes=4.0),
    # Not torch's own: it scales the rate by a weight's size, and LoRA's B starts at zero.
    "adafactor": _Kind(
        "transformers.optimization",
        "Adafactor",
        takes_betas=False,
        takes_eps=False,
        state_bytes=0.0,
        extra={"scale_parameter": False, "relative_step": False},
    ),
    "adamw_bnb_8bit": _Kind(_BNB, "AdamW8bit", state_bytes=2.0),
    "adamw_8bit": _Kind(_BNB, "AdamW8bit", state_bytes=2.0),
    "paged_adamw_8bit": _Kind(_BNB, "PagedAdamW8bit", unpaged="AdamW8bit", state_bytes=2.0),
    "paged_adamw_32bit": _Kind(
        _BNB, "PagedAdamW32bit", unpaged="AdamW32bit", small="adamw_torch_fused"
    ),
    "paged_adamw": _Kind(_BNB, "PagedAdamW32bit", unpaged="AdamW32bit", small="adamw_torch_fused"),
    "ademamix": _Kind(_BNB, "AdEMAMix", further_betas=_THREE_BETAS),
    "ademamix_8bit": _Kind(_BNB, "AdEMAMix8bit", further_betas=_THREE_BETAS, state_bytes=3.0),
    "paged_ademamix_32bit": _Kind(
        _BNB, "PagedAdEMAMix", further_betas=_THREE_BETAS, unpaged="AdEMAMix"
    ),  # bitsandbytes' classes with 32bit in their name lack the second slow moment
    "paged_ademamix_8bit": _Kind(
        _BNB,
        "PagedAdEMAMix8bit",
        further_betas=_THREE_BETAS,
        unpaged="AdEMAMix8bit",
        state_bytes=3.0,
    ),
    "lion_32bit": _Kind(_BNB, "Lion32bit", takes_eps=False, state_bytes=4.0),
    "lion_8bit": _Kind(_BNB, "Lion8bit", takes_eps=False, state_bytes=1.0),
    "paged_lion_32bit": _Kind(
        _BNB, "PagedLion32bit", takes_eps=False, unpaged="Lion32bit", state_bytes=4.0
    ),
    "paged_lion_8bit": _Kind(
        _BNB, "PagedLion8bit", takes_eps=False, unpaged="Lion8bit", state_bytes=1.0
    ),
    "rmsprop_bnb_8bit": _Kind(_BNB, "RMSprop8bit", takes_betas=False, state_bytes=1.0),
    "rmsprop_bnb_32bit": _Kind(_BNB, "RMSprop32bit", takes_betas=False, state_bytes=4.0),
}


_EMBEDDING_RATE = 1e-6
"""Of adapted embeddings in LoRA+, where no key says it: peft's and axolotl's."""


_SMALL_STATE_WEIGHTS = 2**28
"""Trained weights whose state needs no pages: 2 GiB of AdamW's."""


def optimizer_in_use(
    name: str, num_weights: int, optim_args: Mapping[str, Any] | None = None
) -> str:
    """The optimizer that serves the name for so many trained weights.

    Pages help where state is as large as the card. The state of an adapter is not; there they only
    cost bitsandbytes' launches, one a tensor, which at 448 tensors is a fifth of a short step.
    Equal up to rounding. The number of weights alone decides, so a run goes on anywhere.
    """
    small = OPTIMIZERS[name].small
    return small if small and num_weights < _SMALL_STATE_WEIGHTS and not optim_args else name


def optimizer_state_bytes(name: str, num_weights: int) -> int:
    """What the optimizer keeps for so many trained weights, roughly and rather too little."""
    return int(OPTIMIZERS[name].state_bytes * num_weights)


_SMALL, _PAGED_FROM, _BLOCK = 4096, 100_000, 256
"""bitsandbytes: tensors below the first keep fp32 state, those from the second on are paged; 8-bit
state has an fp32 scale a block."""


def optimizer_need(
    name: str, sizes: Sequence[int], *, weight_bytes: int, is_cuda: bool
) -> OptimizerNeed:
    """What the optimizer holds on the device, and works with at the update.

    Args:
        name: The key ``optimizer``.
        sizes: Numbers of each trained tensor.
        weight_bytes: Of a trained number.
        is_cuda: Paged state lives on the host there; elsewhere there are no pages.
    """
    total = sum(sizes)
    name = optimizer_in_use(name, total)
    kind = OPTIMIZERS[name]
    if kind.module != _BNB:
        state = kind.state_bytes * total
        if kind.module == "torch.optim":  # in the weights' own format
            state *= weight_bytes / 4
        is_in_groups = is_cuda and name in ("adamw_torch", "rmsprop", "adagrad")
        return OptimizerNeed(state, float(total * weight_bytes) if is_in_groups else 0.0)
    is_8bit, is_paged = "8bit" in kind.cls, is_cuda and bool(kind.unpaged)
    state = 0.0
    for size in sizes:
        if is_paged and size >= _PAGED_FROM:
            continue
        full = kind.state_bytes * (4 if is_8bit else 1)
        small = kind.state_bytes * (1 + 4 / _BLOCK)
        state += size * (small if is_8bit and size >= _SMALL else full)
    return OptimizerNeed(state)


def build_optimizer(
    spec: TrainingSpec, parameters: Sequence[tuple[str, Parameter]], device: torch.device
) -> Optimizer:
    """The optimizer that the spec names, over these parameters, each with its name.

    Matrices decay, vectors (biases, norms) do not. Paged optimizers need CUDA's unified memory;
    elsewhere their plain forms compute the same.

    Raises:
        UserError: its library is not installed, or it does not take what optim_args names.
    """
    num_weights = sum(parameter.numel() for _, parameter in parameters)
    kind = OPTIMIZERS[optimizer_in_use(spec.optimizer, num_weights, spec.optim_args)]
    name = kind.unpaged if kind.unpaged and device.type != "cuda" else kind.cls
    optimizer_class = getattr(_module(spec.optimizer, kind), name)
    options: dict[str, Any] = {"lr": spec.learning_rate, **kind.extra}
    if kind.takes_betas:
        options["betas"] = (spec.adam_beta1, spec.adam_beta2, *kind.further_betas)
    if kind.takes_eps:
        options["eps"] = spec.adam_epsilon
    try:
        optimizer: Optimizer = optimizer_class(
            parameter_groups(spec, parameters), **options, **spec.optim_args
        )
    except (TypeError, ValueError) as error:
        if not spec.optim_args:
            raise
        fix = f"remove what {spec.optimizer} does not take, or what another key says"
        raise UserError(Problem(f"optim_args of {spec.optimizer}: {error}", fix=fix)) from error
    return optimizer


def parameter_groups(
    spec: TrainingSpec, parameters: Sequence[tuple[str, Parameter]]
) -> list[dict[str, Any]]:
    """Parameters that share a decay and a learning rate; those that use spec's rate come first.

    With loraplus_lr_ratio, LoRA's B and all vectors learn faster (LoRA+, Hayou et al. 2024, as peft
    groups them), and adapted embeddings at a rate of their own.
    """
    groups: dict[tuple[float, float, bool], list[Parameter]] = {}
    for name, parameter in sorted(parameters, key=lambda each: each[1].ndim < 2):
        is_matrix = parameter.ndim >= 2
        decay = spec.weight_decay if is_matrix else 0.0
        key = (_rate(spec, name, parameter), decay, is_matrix)
        groups.setdefault(key, []).append(parameter)
    first = spec.learning_rate
    return [
        {"params": members, "weight_decay": decay, "lr": rate}
        for (rate, decay, _), members in sorted(
            groups.items(), key=lambda each: each[0][0] != first
        )
    ]


def _rate(spec: TrainingSpec, name: str, parameter: Parameter) -> float:
    if spec.loraplus_lr_ratio is None:
        return spec.learning_rate
    if ".lora_embedding_" in name:
        return spec.loraplus_lr_embedding or _EMBEDDING_RATE
    is_fast = ".lora_B." in name or parameter.ndim == 1
    return spec.learning_rate * (spec.loraplus_lr_ratio if is_fast else 1.0)


def _module(optimizer: str, kind: _Kind) -> Any:
    if kind.library and importlib.util.find_spec(kind.library) is None:
        raise UserError(
            Problem(
                f"optimizer: {optimizer} needs {kind.library}, which is not installed",
                fix=f"pip install {kind.library}, or use adamw_bnb_8bit",
            )
        )
    return importlib.import_module(kind.module)

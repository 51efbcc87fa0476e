"""Optimizers and learning-rate schedules by the dialect's names."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from ft.spec import TrainingSpec


@dataclass(frozen=True)
class _Kind:
    """Where an optimizer comes from and what it takes."""

    module: str
    cls: str
    takes_betas: bool = True
    takes_eps: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    unpaged: str = ""
    """Its name without paging, which only CUDA has."""


_BNB = "bitsandbytes.optim"

OPTIMIZERS: dict[str, _Kind] = {
    "adamw_torch": _Kind("torch.optim", "AdamW"),
    "adamw_torch_fused": _Kind("torch.optim", "AdamW", extra={"fused": True}),
    "sgd": _Kind("torch.optim", "SGD", takes_betas=False, takes_eps=False),
    "rmsprop": _Kind("torch.optim", "RMSprop", takes_betas=False),
    "adagrad": _Kind("torch.optim", "Adagrad", takes_betas=False),
    # Not torch's own: it scales the rate by a weight's size, and LoRA's B starts at zero.
    "adafactor": _Kind(
        "transformers.optimization",
        "Adafactor",
        takes_betas=False,
        takes_eps=False,
        extra={"scale_parameter": False, "relative_step": False},
    ),
    "adamw_bnb_8bit": _Kind(_BNB, "AdamW8bit"),
    "adamw_8bit": _Kind(_BNB, "AdamW8bit"),
    "paged_adamw_8bit": _Kind(_BNB, "PagedAdamW8bit", unpaged="AdamW8bit"),
    "paged_adamw_32bit": _Kind(_BNB, "PagedAdamW32bit", unpaged="AdamW32bit"),
    "paged_adamw": _Kind(_BNB, "PagedAdamW32bit", unpaged="AdamW32bit"),
    "lion_32bit": _Kind(_BNB, "Lion32bit", takes_eps=False),
    "lion_8bit": _Kind(_BNB, "Lion8bit", takes_eps=False),
    "paged_lion_32bit": _Kind(_BNB, "PagedLion32bit", takes_eps=False, unpaged="Lion32bit"),
    "paged_lion_8bit": _Kind(_BNB, "PagedLion8bit", takes_eps=False, unpaged="Lion8bit"),
    "rmsprop_bnb_8bit": _Kind(_BNB, "RMSprop8bit", takes_betas=False),
}


def build_optimizer(
    spec: TrainingSpec, parameters: Sequence[Parameter], device: torch.device
) -> Optimizer:
    """The optimizer that the spec names, over these parameters.

    Matrices decay, vectors (biases, norms) do not. Paged optimizers need CUDA's unified memory;
    elsewhere their plain forms compute the same.
    """
    kind = OPTIMIZERS[spec.optimizer]
    name = kind.unpaged if kind.unpaged and device.type != "cuda" else kind.cls
    optimizer_class = getattr(importlib.import_module(kind.module), name)
    options: dict[str, Any] = {"lr": spec.learning_rate, **kind.extra}
    if kind.takes_betas:
        options["betas"] = (spec.adam_beta1, spec.adam_beta2)
    if kind.takes_eps:
        options["eps"] = spec.adam_epsilon
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer: Optimizer = optimizer_class([g for g in groups if g["params"]], **options)
    return optimizer


def build_schedule(spec: TrainingSpec, optimizer: Optimizer, num_steps: int) -> LRScheduler:
    """The learning rate's course over the run, advanced once an optimizer step."""
    schedule: LRScheduler = get_scheduler(
        spec.lr_scheduler,
        optimizer,
        num_warmup_steps=num_warmup_steps(spec, num_steps),
        num_training_steps=num_steps,
    )
    return schedule


def num_warmup_steps(spec: TrainingSpec, num_steps: int) -> int:
    """Warm-up in optimizer steps, from warmup_steps or warmup_ratio (rounded up)."""
    if spec.warmup_steps is not None:
        return spec.warmup_steps
    return math.ceil((spec.warmup_ratio or 0.0) * num_steps)

"""Methods that change what single layers compute, and need nothing beside their peft config.

IA3        y = (W x) * l            a scale an output, or an input
VeRA       y = W x + b * B (d * (A x))    A, B random and shared; only d and b are trained
OFT, BOFT  y = W R x                R orthogonal: blocks, or a product of butterflies
HRA        y = W H1 ... Hr x        H Householder reflections
LoHa       dW = (B1 A1) * (B2 A2)   LoKr  dW = C (x) (B A)
FourierFT  dW = inverse Fourier transform of few trained frequencies
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ft.model.methods.request import Request
from ft.model.targets import (
    has_transposed_weights,
    layers_to_transform,
    saved_names,
    target_names,
)
from ft.runtime.errors import Problem, UserError
from ft.spec.methods import METHODS as FACTS

# isort: split
import peft


@dataclass(frozen=True)
class LayerMethod:
    """One of them: which of peft's configs, and which key each of its fields comes from."""

    name: str
    peft_config: type
    fields: Mapping[str, str] = field(default_factory=dict)
    """peft's field -> our key."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that no key says."""
    knows_targets: bool = False
    """Whether peft's own choice of layers is taken where none is named."""

    def config(self, request: Request) -> tuple[Any, list[str]]:
        """Targets looked up in the model; the rest as the keys say."""
        model, spec = request.model, request.spec
        saved = saved_names(model, spec, has_new_tokens=request.has_new_tokens)
        keys = FACTS[self.name].keys
        values: dict[str, Any] = {ours: getattr(spec, key) for ours, key in self.fields.items()}
        targets, notes = self._targets(request)
        if "lora_fan_in_fan_out" in keys:
            asked = spec.lora_fan_in_fan_out
            values["fan_in_fan_out"] = has_transposed_weights(model) if asked is None else asked
        if "peft_layers_to_transform" in keys:
            values |= layers_to_transform(model, spec, set(targets or ()))
        config = self.peft_config(
            target_modules=targets,
            modules_to_save=sorted(saved) or None,
            task_type="CAUSAL_LM",
            **values,
            **self.fixed,
        )
        return config, notes

    def _targets(self, request: Request) -> tuple[list[str] | None, list[str]]:
        spec = request.spec
        if self.knows_targets and not (spec.lora_target_modules or spec.lora_target_linear):
            return None, []
        targets, notes = target_names(request.model, spec)
        return sorted(targets), notes

    def begin(self, peft_model: Any, request: Request, load_plain: Callable[[], Any]) -> None:
        """Peft's own first weights."""


class Ia3(LayerMethod):
    """IA3, whose scaled inputs are named among its targets."""

    def config(self, request: Request) -> tuple[Any, list[str]]:
        """With the feed-forward layers where they are named, or peft's own choice of both.

        Raises:
            UserError: a feed-forward layer is none of the targets.
        """
        config, notes = super().config(request)
        if config.target_modules is None:
            return config, notes
        asked = set(request.spec.feedforward_modules)
        if unknown := sorted(asked - config.target_modules):
            what = f"{unknown[0]!r} is none of the layers that get an adapter"
            fix = f"those are {', '.join(sorted(config.target_modules))}"
            raise UserError(Problem(what, "feedforward_modules", fix=fix))
        config.feedforward_modules = asked
        return config, notes


_RANK, _ALPHA = {"r": "lora_r"}, {"alpha": "lora_alpha"}

LAYER_METHODS = (
    Ia3("ia3", peft.IA3Config, knows_targets=True),
    LayerMethod(
        "vera",
        peft.VeraConfig,
        {
            **_RANK,
            "vera_dropout": "lora_dropout",
            "projection_prng_key": "projection_prng_key",
            "d_initial": "d_initial",
        },
    ),
    LayerMethod("oft", peft.OFTConfig, {"oft_block_size": "oft_block_size"}, {"r": 0}),
    LayerMethod(
        "boft",
        peft.BOFTConfig,
        {
            "boft_block_size": "boft_block_size",
            "boft_n_butterfly_factor": "boft_n_butterfly_factor",
        },
    ),
    LayerMethod("hra", peft.HRAConfig, _RANK),
    LayerMethod("loha", peft.LoHaConfig, {**_RANK, **_ALPHA}),
    LayerMethod(
        "lokr", peft.LoKrConfig, {**_RANK, **_ALPHA, "decompose_factor": "decompose_factor"}
    ),
    LayerMethod("fourierft", peft.FourierFTConfig, {"n_frequency": "n_frequency"}),
)

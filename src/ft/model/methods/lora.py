"""LoRA (Hu et al. 2021) and what begins or scales otherwise: rsLoRA, DoRA, PiSSA, OLoRA, LoftQ.

    y = W x + s B A x        A [r, in], B [out, r];  s = alpha / r, for rsLoRA alpha / sqrt(r)

PiSSA and OLoRA take their first B A out of W, so what they train fits no base on any hub. It is
published as plain LoRA of twice the rank, which does, exactly:

    W' + s B A,  W' = W - s B0 A0    =    W + s [B, -B0] [A; A0]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ft.model.methods.attached import Attached
from ft.model.methods.request import Request
from ft.model.targets import (
    check_patterns,
    embedding_names,
    has_tied_embeddings,
    has_transposed_weights,
    layers_to_transform,
    saved_names,
    target_names,
    target_parameters,
    trainable_tokens,
)

# isort: split
import bitsandbytes as bnb  # after patches, which silences its import
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

_MUTATING = ("pissa", "olora")
"""Ways to begin that change the base's weights."""
_A, _B = (re.compile(rf"\.lora_(embedding_)?{side}\b") for side in "AB")


class Lora:
    """LoRA in all its variants."""

    def config(self, request: Request) -> tuple[LoraConfig, list[str]]:
        """Targets looked up in the model; the rest as the keys say."""
        model, spec = request.model, request.spec
        targets, notes = target_names(model, spec)
        check_patterns(model, spec, targets)
        saved = saved_names(model, spec, has_new_tokens=request.has_new_tokens)
        is_transposed = has_transposed_weights(model)
        asked = spec.lora_fan_in_fan_out
        first = spec.peft_init_lora_weights
        config = LoraConfig(
            r=spec.lora_r,
            lora_alpha=spec.lora_alpha,  # peft annotates int, computes alpha / r
            lora_dropout=spec.lora_dropout,
            target_modules=sorted(targets),
            modules_to_save=sorted(saved) or None,
            fan_in_fan_out=is_transposed if asked is None else asked,
            ensure_weight_tying=has_tied_embeddings(model) and embedding_names(model)[0] in saved,
            use_rslora=spec.peft_use_rslora,
            use_dora=spec.peft_use_dora,
            init_lora_weights=True if first == "loftq" else first,
            rank_pattern=dict(spec.lora_rank_pattern),
            alpha_pattern=dict(spec.lora_alpha_pattern),
            trainable_token_indices=trainable_tokens(model, spec) or None,
            target_parameters=target_parameters(model, spec) or None,
            task_type="CAUSAL_LM",
            **layers_to_transform(model, spec, targets),
        )
        if spec.peft_init_lora_weights == "pissa" and spec.lora_dropout:
            notes.append("pissa: its authors train without dropout; lora_dropout is on")
        return config, notes

    def begin(self, peft_model: Any, request: Request, load_plain: Callable[[], Any]) -> None:
        """LoftQ: begins with what the bits lost."""
        if request.spec.peft_init_lora_weights == "loftq":
            begin_with_quantization_error(peft_model, load_plain())


@torch.no_grad()
def begin_with_quantization_error(peft_model: Any, plain: Any) -> None:
    """LoftQ's first iteration (Li et al. 2023, algorithm 1, T = 1), in place.

    The base stays as it is quantized, Q; s B A becomes the best approximation of W - Q of rank r.

    Args:
        peft_model: LoRA on a 4-bit base.
        plain: The same base in plain weights, W.
    """
    weights = dict(plain.named_parameters())
    for path, layer in peft_model.get_base_model().named_modules():
        quantized = layer.get_base_layer() if isinstance(layer, LoraLayer) else None
        if not isinstance(quantized, bnb.nn.Linear4bit):
            continue
        packed = quantized.weight
        held = bnb.functional.dequantize_4bit(packed.data, packed.quant_state).float()
        lost = weights[f"{path}.weight"].to(held.device, torch.float32) - held
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        for name in layer.lora_A:
            rank = layer.r[name]
            root = (values[:rank] / layer.scaling[name]).sqrt()
            layer.lora_A[name].weight.copy_(root[:, None] * right[:rank])
            layer.lora_B[name].weight.copy_(left[:, :rank] * root)


class MutatingLora(Attached):
    """LoRA that took its beginning out of the base."""

    exact_is_all = True

    def __init__(self, peft_model: Any) -> None:
        super().__init__(peft_model)
        state, _ = super().published()
        self._first = {name: tensor.detach().clone() for name, tensor in state.items()}

    def published(self) -> tuple[dict[str, Tensor], Any]:
        """Plain LoRA of twice the rank, for the base as it was."""
        state, config = super().published()
        for name, tensor in state.items():
            if _A.search(name):
                state[name] = torch.cat([tensor, self._first[name]], dim=0)
            elif _B.search(name):
                state[name] = torch.cat([tensor, -self._first[name]], dim=1)
        config.init_lora_weights = True
        config.r *= 2
        config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
        growth = math.sqrt(2) if config.use_rslora else 2  # so that the scale stays
        config.lora_alpha *= growth
        config.alpha_pattern = {n: alpha * growth for n, alpha in config.alpha_pattern.items()}
        return state, config

    def exact(self) -> dict[str, Tensor]:
        """The matrices as they are trained."""
        return super().published()[0]

    def restore(self, exact: dict[str, Tensor]) -> None:
        """Over the same first weights, which the same seed and base give."""
        state = self.exact()
        for name, tensor in exact.items():
            state[name].data.copy_(tensor)


def attach_lora(peft_model: Any) -> Attached:
    """What is on the model, by how it began."""
    first = peft_model.active_peft_config.init_lora_weights
    if isinstance(first, str) and first.startswith(_MUTATING):
        return MutatingLora(peft_model)
    return Attached(peft_model)

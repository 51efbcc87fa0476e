"""AdaLoRA (Zhang et al. 2023): ranks move to the layers that need them.

    y = W x + s / (r + 1e-5) B diag(E) A x        over steps 0 .. tinit .. T - tfinal .. T

Between tinit and T - tfinal the budget of all ranks shrinks by a cube; after each step the entries
of E that matter least are set to zero. What matters is a running mean over gradients, so it is a
part of the run's state.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ft.model.methods.attached import Attached
from ft.model.methods.request import Request
from ft.model.targets import has_transposed_weights, saved_names, target_names
from ft.runtime.errors import Problem, UserError

# isort: split
from peft import AdaLoraConfig

_GROWTH = 1.5
"""Rank to begin with, as a multiple of the rank to end with: what the paper's runs use."""
_MEANS = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PATTERN = "rank_pattern"


class AdaLora:
    """Ranks that are handed out while it trains."""

    def config(self, request: Request) -> tuple[AdaLoraConfig, list[str]]:
        """Without its schedule, which needs the number of steps: ``Attached.begin`` sets it."""
        model, spec = request.model, request.spec
        targets, notes = target_names(model, spec)
        saved = saved_names(model, spec, has_new_tokens=request.has_new_tokens)
        asked = spec.lora_fan_in_fan_out
        return AdaLoraConfig(
            target_r=spec.lora_r,
            init_r=spec.init_r or math.ceil(_GROWTH * spec.lora_r),
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=sorted(targets),
            modules_to_save=sorted(saved) or None,
            fan_in_fan_out=has_transposed_weights(model) if asked is None else asked,
            tinit=spec.tinit,  # steps or a share: settled in begin
            tfinal=spec.tfinal,
            deltaT=spec.deltaT,
            orth_reg_weight=spec.orth_reg_weight,
            total_step=sys.maxsize,
            task_type="CAUSAL_LM",
        ), notes

    def begin(self, peft_model: Any, request: Request, load_plain: Callable[[], Any]) -> None:
        """Peft's own first weights."""


class AttachedAdaLora(Attached):
    """Its schedule, its penalty, and the running means that decide."""

    follows_updates = True

    def begin(self, num_steps: int) -> None:
        """Settles the schedule.

        Raises:
            UserError: it leaves no step in which ranks could be taken away.
        """
        config = self.peft_model.active_peft_config
        tinit, tfinal = _in_steps(config.tinit, num_steps), _in_steps(config.tfinal, num_steps)
        if tinit + tfinal >= num_steps:
            raise UserError(
                Problem(
                    f"adalora: tinit {tinit} and tfinal {tfinal} leave none of {num_steps} steps "
                    "to take ranks away in",
                    "tinit, tfinal",
                    fix="make them smaller (below 1: a share of all steps), or train longer",
                )
            )
        config.tinit, config.tfinal, config.total_step = tinit, tfinal, num_steps

    def after_update(self, step: int) -> None:
        """Weighs what each rank is worth, and sets the least to zero."""
        self.peft_model.base_model.update_and_allocate(step)

    def penalty(self) -> Tensor:
        """How far A's rows and B's columns are from orthonormal (equation 7), as peft has it."""
        config = self.peft_model.active_peft_config
        distances = []
        for name, matrix in self.peft_model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                gram = matrix @ matrix.T if ".lora_A." in name else matrix.T @ matrix
                eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
                distances.append(torch.linalg.matrix_norm(gram - eye))
        penalty: Tensor = config.orth_reg_weight * torch.stack(distances).mean()
        return penalty

    def published(self) -> tuple[dict[str, Tensor], Any]:
        """All ranks, the emptied ones as zeros in E: peft reads that, and training can go on."""
        config = self.peft_model.active_peft_config
        pattern, config.rank_pattern = config.rank_pattern, None
        try:
            return super().published()
        finally:
            config.rank_pattern = pattern

    def exact(self) -> dict[str, Tensor]:
        """The running means, and which ranks are left."""
        allocator = self.peft_model.base_model.rankallocator
        state = {
            f"{kind}.{name}": tensor
            for kind in _MEANS
            for name, tensor in getattr(allocator, kind).items()
        }
        pattern = self.peft_model.active_peft_config.rank_pattern or {}
        return state | {f"{_PATTERN}.{name}": torch.tensor(kept) for name, kept in pattern.items()}

    def restore(self, exact: dict[str, Tensor]) -> None:
        """Puts both back."""
        allocator = self.peft_model.base_model.rankallocator
        device = next(self.peft_model.parameters()).device
        kept = {kind: _below(exact, kind) for kind in (*_MEANS, _PATTERN)}
        for kind in _MEANS:
            setattr(allocator, kind, {n: tensor.to(device) for n, tensor in kept[kind].items()})
        pattern = {name: tensor.tolist() for name, tensor in kept[_PATTERN].items()}
        self.peft_model.active_peft_config.rank_pattern = pattern or None


def _in_steps(steps: float, num_steps: int) -> int:
    """Steps, from steps or (below 1) a share of all."""
    return int(steps * num_steps) if steps < 1 else int(steps)


def _below(tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")}

"""An adapter on a model, as training and saving see it."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes

# isort: split
from peft import get_peft_model_state_dict


class Attached:
    """What every adapter does, and most do no more.

    Two forms of its weights are told apart. ``published`` is peft's file, with which
    ``PeftModel.from_pretrained`` gives the trained model. ``exact`` is what training needs beyond
    that to go on bit for bit; it is empty where peft's file has it all.
    """

    num_leading_logits = 0
    """Positions that stand before a record's own in the logits."""
    follows_updates = False
    """Whether ``after_update`` does anything, so that it must be known that there was one."""
    exact_is_all = False
    """Whether ``exact`` holds every trained tensor, so that peft's file is not read beside it."""

    def __init__(self, peft_model: Any) -> None:
        self.peft_model = peft_model

    def begin(self, num_steps: int) -> None:
        """Told how long the run is, before its first step."""

    def after_update(self, step: int) -> None:
        """Called after each optimizer step, counted from 0, while its gradients are there.

        A step that a loss scaler skipped is none.
        """

    def penalty(self) -> Tensor | None:
        """What is added to a token's mean loss: a scalar with a gradient; None: nothing."""
        return None

    def published(self) -> tuple[dict[str, Tensor], Any]:
        """Peft's tensors, sharing the model's memory, and a config of its own."""
        state = get_peft_model_state_dict(self.peft_model, save_embedding_layers=False)
        config = copy.copy(self.peft_model.active_peft_config)
        config.inference_mode = True
        return state, config

    def exact(self) -> dict[str, Tensor]:
        """What ``published`` leaves out and training needs, sharing the model's memory."""
        return {}

    def restore(self, exact: dict[str, Tensor]) -> None:
        """Puts back what ``exact`` gave."""


class Untouched(Attached):
    """No adapter: the model itself is trained."""

    def __init__(self) -> None:
        super().__init__(None)

"""The one place where methods are registered."""

from __future__ import annotations

from typing import Any

from ft.model.methods.adalora import AdaLora, AttachedAdaLora
from ft.model.methods.attached import Attached
from ft.model.methods.layers import LAYER_METHODS
from ft.model.methods.lora import Lora, attach_lora
from ft.model.methods.prompts import PROMPT_METHODS, AttachedPrompt
from ft.model.methods.request import Method

# isort: split
from peft import PeftType

METHODS: dict[str, Method] = {
    "lora": Lora(),
    "qlora": Lora(),
    "adalora": AdaLora(),
    **{method.name: method for method in LAYER_METHODS},
    **{method.name: method for method in PROMPT_METHODS},
}
"""By the values of `adapter:`."""

_ATTACHED = {
    PeftType.LORA: attach_lora,
    PeftType.ADALORA: AttachedAdaLora,
    PeftType.PREFIX_TUNING: AttachedPrompt,
    PeftType.PROMPT_TUNING: AttachedPrompt,
    PeftType.P_TUNING: AttachedPrompt,
}


def attach(peft_model: Any) -> Attached:
    """What is on a model, told by its peft config; before its first step if it is to be trained."""
    return _ATTACHED.get(peft_model.active_peft_config.peft_type, Attached)(peft_model)

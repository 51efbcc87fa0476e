"""`overrides_of_model_config`: values of the checkpoint's config.json that a run replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError

from ft.runtime.errors import Problem, UserError
from ft.spec.nearest import nearest

_KEY = "overrides_of_model_config"

_SAID_ELSEWHERE = {
    "attn_implementation": "set attn_implementation at the top level",
    "dtype": "set bf16 or fp16 at the top level",
    "torch_dtype": "set bf16 or fp16 at the top level",
    "quantization_config": "set load_in_4bit or load_in_8bit at the top level",
    "use_cache": "remove it: training holds no cache, and answering always does",
    "vocab_size": "remove it: embeddings grow with the tokens",
    "model_type": "name the checkpoint itself as base_model",
    "architectures": "name the checkpoint itself as base_model",
    "auto_map": "remove it: code from a model repository is never run",
}


def apply_overrides(config: Any, overrides: Mapping[str, Any]) -> None:
    """Sets the values in a transformers config, in place; of a multimodal one, in its text part.

    Raises:
        UserError: the config has no such value, one of another type, or another key says it.
    """
    text = config.get_text_config()
    problems = []
    for name, value in overrides.items():
        owner = next((part for part in (config, text) if name in part.to_dict()), None)
        if name in _SAID_ELSEWHERE or name.startswith("_"):
            what, fix = f"{name} is not set here", _SAID_ELSEWHERE.get(name, "remove it")
        elif owner is None:
            guess = nearest(name, [*config.to_dict(), *text.to_dict()])
            what = f"the config of {config.model_type} has no {name!r}"
            fix = f"did you mean {guess}?" if guess else "remove it"
        elif not _set(owner, name, value):
            what = f"got {value!r}, in place of {getattr(owner, name)!r}"
            fix = "give a value of the same type"
        else:
            continue
        problems.append(Problem(what, f"{_KEY}.{name}", fix=fix))
    if problems:
        raise UserError(*problems)


def _set(config: Any, name: str, value: Any) -> bool:
    """Sets the value if it is of the type of the one before; a whole number is a number too."""
    before = getattr(config, name)
    if isinstance(before, float) and type(value) is int:
        value = float(value)
    if before is not None and value is not None and not isinstance(value, type(before)):
        return False
    try:
        setattr(config, name, value)
    except StrictDataclassFieldValidationError:
        return False
    return True

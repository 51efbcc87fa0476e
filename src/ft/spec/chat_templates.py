"""The names that `chat_template:` may hold: whose template it is, and what becomes of each name.

Only names live here, so that a file is checked without a template engine; the templates themselves
are `ft/data/chat_templates/NAME.jinja`.
"""

from __future__ import annotations

from ft.spec.nearest import nearest

TOKENIZERS_OWN = "tokenizer_default"
"""The template that comes with the tokenizer."""

JINJA = "jinja"
"""The template that `chat_template_jinja:` holds."""

FALLBACK = "tokenizer_default_fallback_"
"""In front of a name: the tokenizer's own template, or the named one where it has none."""

BUILT_IN = (
    "chatml",
    "llama3",
    "llama4",
    "gemma",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4_unified",
    "qwen_25",
    "qwen3",
    "qwen3_5",
    "mistral_v1",
    "mistral_v2v3",
    "mistral_v3_tekken",
    "mistral_v7_tekken",
    "phi_3",
    "phi_35",
    "phi_4",
    "deepseek_v2",
    "deepseek_v3",
    "falcon_h1",
    "nemotron_h",
    "cohere",
    "aya",
    "exaone",
    "exaone4",
    "jamba",
    "alpaca",
    "metharme",
)
"""Templates of ours."""

_FOR_IMAGES = "it lays out images, and ft trains on text: use tokenizer_default"
_LONG = "use tokenizer_default with the model's own tokenizer, which has it"

NOT_SUPPORTED = {
    "llama3_2_vision": "it lays out images, and ft trains on text: use llama3",
    "llava": _FOR_IMAGES,
    "pixtral": _FOR_IMAGES,
    "qwen2_vl": "it lays out images, and ft trains on text: use qwen_25",
    "command_a": _LONG,
    "command_a_tool_use": _LONG,
    "command_a_rag": _LONG,
}
"""Names that other tools know -> what to use instead."""


def checked_chat_template(name: str) -> str:
    """The name, if there is such a template.

    Raises:
        ValueError: There is none; says which name was meant, or what to use instead.
    """
    wanted = name.removeprefix(FALLBACK)
    if wanted in BUILT_IN or name in (TOKENIZERS_OWN, JINJA):
        return name
    if wanted in NOT_SUPPORTED:
        raise ValueError(f"another template ({wanted} is not supported: {NOT_SUPPORTED[wanted]})")
    guess = nearest(wanted, (*BUILT_IN, TOKENIZERS_OWN, JINJA))
    if guess is None:
        known = ", ".join((TOKENIZERS_OWN, *BUILT_IN, JINJA))
        raise ValueError(f"the name of a chat template ({known})")
    raise ValueError(f"the name of a chat template (did you mean {guess}?)")

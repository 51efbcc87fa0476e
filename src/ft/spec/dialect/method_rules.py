"""What can't hold together because of the method: told before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from ft.spec.dialect.contradictions import Contradiction
from ft.spec.methods import IDLE_ELSEWHERE, METHODS, Bits, methods_taking
from ft.spec.runspec import AdapterSpec, TrainingSpec

_Values = Mapping[str, Any]
_OWN_KEYS = sorted(
    {key for method in METHODS.values() for key in method.keys}
    - IDLE_ELSEWHERE
    - {"lora_model_dir"}
)
"""Keys that only some methods know; beside another one they are an error."""


_FIELDS = AdapterSpec.model_fields | TrainingSpec.model_fields
_TYPES: dict[str, TypeAdapter[Any]] = {
    key: TypeAdapter(cast(Any, _FIELDS[key].annotation)) for key in _OWN_KEYS
}


def _differs(values: _Values, key: str) -> bool:
    """Whether a key asks for something else than its default; a value of no sense does not."""
    if values.get(key) is None:
        return False
    try:
        value = _TYPES[key].validate_python(values[key])
    except ValidationError:
        return False
    return bool(value != _FIELDS[key].get_default(call_default_factory=True))


def _misplaced_keys() -> Iterator[Contradiction]:
    for key in _OWN_KEYS:
        names = methods_taking(key)

        def holds(v: _Values, key: str = key, names: list[str] = names) -> bool:
            return v.get("adapter") not in names and _differs(v, key)

        words = " or ".join(names)
        what = f"{key} belongs to adapter: {words}"
        yield Contradiction((key,), what, f"remove it, or set adapter: {names[0]}", holds)


def _refused_bases() -> Iterator[Contradiction]:
    for name, method in METHODS.items():
        for bits, why in method.refuses.items():
            other: Bits = "load_in_8bit" if bits == "load_in_4bit" else "load_in_4bit"
            way_out = f"set {other}: true, or" if other not in method.refuses else "set"

            def holds(v: _Values, name: str = name, bits: str = bits) -> bool:
                return v.get("adapter") == name and v.get(bits) is True

            yield Contradiction(
                (bits, "adapter"),
                f"adapter: {name} does not train on a base with {bits}: {why}",
                f"{way_out} {bits}: false, or use adapter: lora",
                holds,
            )


def _begins(v: _Values) -> str:
    """How LoRA begins, as a word."""
    first = v.get("peft_init_lora_weights")
    return first if isinstance(first, str) else ""


def _is_quantized(v: _Values) -> bool:
    return v.get("load_in_4bit") is True or v.get("load_in_8bit") is True


def is_padded(v: _Values) -> bool:
    """Whether the method needs records that are padded to rows."""
    adapter = v.get("adapter")
    return isinstance(adapter, str) and adapter in METHODS and METHODS[adapter].needs_padding


METHOD_RULES = (
    *_misplaced_keys(),
    *_refused_bases(),
    Contradiction(
        ("sample_packing", "eval_sample_packing", "adapter"),
        "packs hold several records in a row, and this adapter puts its own before each row",
        "set sample_packing: false; group_by_length: true saves pad tokens as well",
        lambda v: is_padded(v) and (v.get("sample_packing") or v.get("eval_sample_packing")),
    ),
    Contradiction(
        ("gradient_checkpointing", "adapter"),
        "prefix tuning hands each layer its prefix through the cache, which recomputed layers "
        "do not have",
        "set gradient_checkpointing: false, or adapter: prompt_tuning or p_tuning",
        lambda v: v.get("adapter") == "prefix_tuning" and v.get("gradient_checkpointing"),
    ),
    Contradiction(
        ("peft_use_dora", "load_in_8bit"),
        "DoRA needs the length of each weight's columns, which peft cannot read from 8 bits",
        "set load_in_4bit: true and adapter: qlora instead, or peft_use_dora: false",
        lambda v: v.get("peft_use_dora") is True and v.get("load_in_8bit") is True,
    ),
    Contradiction(
        ("peft_use_dora", "lora_target_parameters"),
        "DoRA is for layers, and lora_target_parameters names tensors",
        "set peft_use_dora: false, or use lora_target_modules",
        lambda v: v.get("peft_use_dora") is True and v.get("lora_target_parameters"),
    ),
    Contradiction(
        ("peft_init_lora_weights", "load_in_4bit", "load_in_8bit"),
        "PiSSA, OLoRA and orthogonal begin in full precision: what they take from a weight cannot "
        "be taken from few bits",
        "set load_in_4bit and load_in_8bit: false; or begin with loftq, which is made for 4 bits",
        lambda v: _is_quantized(v) and _begins(v).startswith(("pissa", "olora", "orthogonal")),
    ),
    Contradiction(
        ("peft_init_lora_weights", "load_in_4bit"),
        "loftq begins with what 4 bits lost of each weight, and this base is not held in 4 bits",
        "set adapter: qlora and load_in_4bit: true, or peft_init_lora_weights: true",
        lambda v: _begins(v) == "loftq" and v.get("load_in_4bit") is not True,
    ),
    Contradiction(
        ("peft_init_lora_weights", "lora_target_parameters"),
        "tensors of experts begin with no change: peft has no other way for them",
        "set peft_init_lora_weights: true, or use lora_target_modules",
        lambda v: _begins(v) and v.get("lora_target_parameters"),
    ),
    Contradiction(
        ("peft_init_lora_weights", "lora_r"),
        "orthogonal needs an even rank",
        "set an even lora_r",
        lambda v: _begins(v) == "orthogonal" and _is_odd(v.get("lora_r")),
    ),
    Contradiction(
        ("peft_init_lora_weights", "lora_model_dir"),
        "the adapter of lora_model_dir has begun already, so nothing begins with "
        "peft_init_lora_weights",
        "remove one of them",
        lambda v: _begins(v) and v.get("lora_model_dir"),
    ),
    Contradiction(
        ("peft_layers_pattern", "peft_layers_to_transform"),
        "peft_layers_pattern says where peft_layers_to_transform counts, and that is not given",
        "set peft_layers_to_transform, or remove it",
        lambda v: v.get("peft_layers_pattern") and not v.get("peft_layers_to_transform"),
    ),
    Contradiction(
        ("loraplus_lr_embedding", "loraplus_lr_ratio"),
        "loraplus_lr_embedding is LoRA+'s rate for adapted embeddings, and LoRA+ is off",
        "set loraplus_lr_ratio, or remove it",
        lambda v: v.get("loraplus_lr_embedding") and not v.get("loraplus_lr_ratio"),
    ),
    Contradiction(
        ("init_r", "lora_r"),
        "adalora takes ranks away until lora_r are left, so it begins with more",
        "set init_r over lora_r, or remove it",
        lambda v: (
            v.get("adapter") == "adalora"
            and isinstance(v.get("init_r"), int)
            and isinstance(v.get("lora_r", 16), int)
            and v["init_r"] <= v.get("lora_r", 16)
        ),
    ),
    Contradiction(
        ("feedforward_modules", "lora_target_modules"),
        "feedforward_modules are some of lora_target_modules, and those are not given",
        "set lora_target_modules, or remove it: ia3 then takes the layers that peft knows",
        lambda v: (
            v.get("adapter") == "ia3"
            and v.get("feedforward_modules")
            and not v.get("lora_target_modules")
            and not v.get("lora_target_linear")
        ),
    ),
    Contradiction(
        ("prompt_tuning_init", "prompt_tuning_init_text"),
        "prompt_tuning_init: TEXT and prompt_tuning_init_text go together",
        "give both, or neither",
        lambda v: (
            (v.get("prompt_tuning_init") == "TEXT" and not v.get("prompt_tuning_init_text"))
            or (
                v.get("prompt_tuning_init") in ("RANDOM", "SAMPLE_VOCAB")
                and v.get("prompt_tuning_init_text")
            )
        ),
    ),
    Contradiction(
        ("lora_model_dir", "prefix_projection", "adapter"),
        "this adapter is saved as what its network gave, without the network, so it cannot go on",
        "remove lora_model_dir; an interrupted run goes on by itself",
        lambda v: (
            v.get("lora_model_dir")
            and (v.get("prefix_projection") is True or v.get("adapter") == "p_tuning")
        ),
    ),
    Contradiction(
        ("lora_model_dir", "adapter"),
        "adalora is saved without the running means by which it hands out ranks, so it cannot go "
        "on",
        "remove lora_model_dir; an interrupted run goes on by itself",
        lambda v: v.get("lora_model_dir") and v.get("adapter") == "adalora",
    ),
)


def _is_odd(value: Any) -> bool:
    return isinstance(value, int) and value % 2 == 1

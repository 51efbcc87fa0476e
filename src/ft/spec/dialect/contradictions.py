"""Keys that can't hold together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft.spec.dialect.not_supported import PREVIEWED, asks_for_preferences
from ft.spec.runspec import PREFERENCE_KEYS, TrainingSpec


@dataclass(frozen=True)
class Contradiction:
    """Keys that can't hold together."""

    keys: tuple[str, ...]
    what: str
    fix: str
    holds: Callable[[Mapping[str, Any]], Any]
    """Given the flat values (null keys absent), true if the contradiction is there."""


def _has_preference_mapping(*lists: Any) -> bool:
    entries = [entry for each in lists if isinstance(each, list) for entry in each]
    types = [entry.get("type") for entry in entries if isinstance(entry, dict)]
    return any(not PREFERENCE_KEYS.isdisjoint(type) for type in types if isinstance(type, dict))


def _name(lists: Sequence[Any], *keys: str) -> bool:
    """Whether an entry of the lists has one of the keys."""
    entries = [entry for each in lists if isinstance(each, list) for entry in each]
    return any(isinstance(entry, dict) and any(map(entry.get, keys)) for entry in entries)


_OF_KD = ("kd_alpha", "kd_ce_alpha", "kd_temperature")


def _differs(value: Any, key: str) -> bool:
    """Whether a key of the training section asks for something else than its default."""
    return value not in (None, TrainingSpec.model_fields[key].default)


def _has_teacher_without_use(v: Mapping[str, Any]) -> bool:
    """Whether one of the two is there, and the other is not."""
    is_asked_for = bool(v.get("kd_trainer"))
    is_at_hand = _name([v.get("datasets")], "logprobs_field")
    return is_asked_for is not is_at_hand or (
        not is_asked_for and _name([v.get("test_datasets")], "logprobs_field")
    )


def _num_weights(value: Any) -> int | None:
    """Of `interleave_probs`, as a list or as LLaMA-Factory writes it; None: another error tells."""
    weights = value.split(",") if isinstance(value, str) else value
    return len(weights) if isinstance(weights, list) else None


CONTRADICTIONS = (
    Contradiction(
        ("load_in_8bit", "load_in_4bit"),
        "load_in_8bit and load_in_4bit are both on",
        "turn one of them off",
        lambda v: v.get("load_in_8bit") is True and v.get("load_in_4bit") is True,
    ),
    Contradiction(
        ("adapter", "load_in_4bit"),
        "adapter: qlora needs a 4-bit base",
        "set load_in_4bit: true, or adapter: lora",
        lambda v: v.get("adapter") == "qlora" and not v.get("load_in_4bit"),
    ),
    Contradiction(
        ("load_in_4bit", "load_in_8bit", "adapter"),
        "a quantized base is frozen, and without an adapter nothing is left to train",
        "set adapter: qlora (4 bits) or adapter: lora, or turn the quantization off",
        lambda v: (
            (v.get("load_in_4bit") is True or v.get("load_in_8bit") is True)
            and not v.get("adapter")
            and not v.get("lora_model_dir")
        ),
    ),
    Contradiction(
        ("model_quantization_config", "model_quantization_config_kwargs"),
        "a checkpoint in MXFP4 is trained as plain weights",
        "set model_quantization_config: Mxfp4Config, and model_quantization_config_kwargs: "
        "{dequantize: true}",
        lambda v: (
            (
                v.get("model_quantization_config") == "Mxfp4Config"
                and v.get("model_quantization_config_kwargs") != {"dequantize": True}
            )
            or ("model_quantization_config" not in v and v.get("model_quantization_config_kwargs"))
        ),
    ),
    Contradiction(
        ("model_quantization_config", "load_in_4bit", "load_in_8bit"),
        "model_quantization_config reads plain weights, and load_in_4bit or load_in_8bit others",
        "keep one",
        lambda v: (
            "model_quantization_config" in v
            and (v.get("load_in_4bit") is True or v.get("load_in_8bit") is True)
        ),
    ),
    Contradiction(
        ("quantize_moe_experts", "load_in_4bit"),
        "quantize_moe_experts goes with a base in 4 or 8 bits, and there is none",
        "set adapter: qlora with load_in_4bit: true, or remove it",
        lambda v: (
            v.get("quantize_moe_experts") is True
            and not v.get("load_in_4bit")
            and not v.get("load_in_8bit")
        ),
    ),
    Contradiction(
        ("lora_dropout", "lora_target_parameters"),
        "an adapter on a tensor itself has no input of its own, so nothing for dropout to act on",
        "set lora_dropout: 0, or use lora_target_modules",
        lambda v: v.get("lora_dropout") and v.get("lora_target_parameters"),
    ),
    Contradiction(
        ("unfrozen_parameters", "adapter"),
        "unfrozen_parameters are trained themselves, and beside an adapter the base is frozen",
        "remove it, or the adapter; modules trained beside one are named in lora_modules_to_save",
        lambda v: v.get("unfrozen_parameters") and v.get("adapter"),
    ),
    Contradiction(
        ("lora_model_dir", "adapter"),
        "lora_model_dir goes on from an adapter, but no adapter is asked for",
        "set adapter: lora (or qlora)",
        lambda v: v.get("lora_model_dir") and not v.get("adapter"),
    ),
    Contradiction(
        ("random_init_seed", "reinit_weights", "adapter"),
        "random weights are trained themselves, so they get no adapter and stay unquantized",
        "remove adapter and load_in_4bit or load_in_8bit, or the key that asks for random weights",
        lambda v: (
            (v.get("random_init_seed") is not None or v.get("reinit_weights") is True)
            and (v.get("adapter") or v.get("load_in_4bit") is True or v.get("load_in_8bit") is True)
        ),
    ),
    Contradiction(
        ("fp16", "bf16"),
        "bf16 and fp16 are both on",
        "keep bf16 where the card has it (capability 8.0 or newer), else fp16",
        lambda v: v.get("fp16") is True and v.get("bf16") in (True, "full"),
    ),
    Contradiction(
        ("warmup_steps", "warmup_ratio"),
        "warmup_steps and warmup_ratio are both given",
        "keep one",
        lambda v: "warmup_steps" in v and "warmup_ratio" in v,
    ),
    Contradiction(
        ("group_by_length", "sample_packing"),
        "sample_packing and group_by_length are both on, and packs have no length to group by",
        "turn group_by_length off",
        lambda v: v.get("sample_packing") is True and v.get("group_by_length") is True,
    ),
    Contradiction(
        ("cosine_min_lr_ratio", "lr_scheduler"),
        "cosine_min_lr_ratio belongs to the schedules cosine and rex",
        "remove it, or set lr_scheduler: cosine",
        lambda v: (
            v.get("cosine_min_lr_ratio")
            and v.get("lr_scheduler", "cosine") not in ("cosine", "rex")
        ),
    ),
    Contradiction(
        ("cosine_constant_lr_ratio", "cosine_min_lr_ratio"),
        "cosine_constant_lr_ratio says when the lowest rate is reached, and there is none",
        "set cosine_min_lr_ratio and lr_scheduler: cosine, or remove it",
        lambda v: (
            v.get("cosine_constant_lr_ratio")
            and not (v.get("cosine_min_lr_ratio") and v.get("lr_scheduler", "cosine") == "cosine")
        ),
    ),
    Contradiction(
        ("lr_quadratic_warmup", "lr_scheduler"),
        "lr_quadratic_warmup is a warm-up of the schedule cosine, which falls to zero",
        "set lr_scheduler: cosine without cosine_min_lr_ratio, or remove it",
        lambda v: (
            v.get("lr_quadratic_warmup") is True
            and (v.get("lr_scheduler", "cosine") != "cosine" or v.get("cosine_min_lr_ratio"))
        ),
    ),
    Contradiction(
        ("eval_steps", "evals_per_epoch"),
        "eval_steps and evals_per_epoch are both given",
        "keep one",
        lambda v: "eval_steps" in v and "evals_per_epoch" in v,
    ),
    Contradiction(
        ("save_steps", "saves_per_epoch"),
        "save_steps and saves_per_epoch are both given",
        "keep one",
        lambda v: "save_steps" in v and "saves_per_epoch" in v,
    ),
    Contradiction(
        ("eval_strategy", "eval_steps"),
        "eval_strategy says otherwise than eval_steps or evals_per_epoch",
        "remove eval_strategy",
        lambda v: (
            (
                v.get("eval_strategy") in ("no", "epoch")
                and ("eval_steps" in v or "evals_per_epoch" in v)
            )
            or (v.get("eval_strategy") == "steps" and "eval_steps" not in v)
        ),
    ),
    Contradiction(
        ("save_strategy", "save_steps"),
        "save_strategy says otherwise than save_steps or saves_per_epoch",
        "remove save_strategy",
        lambda v: (
            (
                v.get("save_strategy") in ("no", "epoch")
                and ("save_steps" in v or "saves_per_epoch" in v)
            )
            or (v.get("save_strategy") == "steps" and "save_steps" not in v)
        ),
    ),
    Contradiction(
        ("early_stopping_patience", "load_best_model_at_end", "val_set_size"),
        "early stopping and the best model need held-out records",
        "set val_set_size: 0.05, or give test_datasets",
        lambda v: (
            (v.get("early_stopping_patience") or v.get("load_best_model_at_end") is True)
            and not v.get("val_set_size")
            and not v.get("test_datasets")
        ),
    ),
    Contradiction(
        ("test_datasets", "val_set_size"),
        "test_datasets and val_set_size both name the held-out records",
        "set val_set_size: 0, or remove test_datasets",
        lambda v: v.get("test_datasets") and v.get("val_set_size"),
    ),
    Contradiction(
        ("kd_trainer", "datasets"),
        "kd_trainer learns from a teacher's logprobs, so it goes together with logprobs_field",
        "set kd_trainer: true, and logprobs_field in each data set that holds them; or neither",
        _has_teacher_without_use,
    ),
    Contradiction(
        _OF_KD,
        f"{', '.join(_OF_KD[:-1])} and {_OF_KD[-1]} belong to kd_trainer: true",
        "set kd_trainer: true, or remove it",
        lambda v: not v.get("kd_trainer") and any(_differs(v.get(key), key) for key in _OF_KD),
    ),
    Contradiction(
        ("datasets",),
        "field_weight and logprobs_field belong to texts that are learned, not to answers that are "
        "judged, nor to labels",
        "remove it; labels are weighed by class_weights",
        lambda v: (
            (asks_for_preferences(v) or v.get("task_type") == "SEQ_CLS")
            and _name([v.get("datasets"), v.get("test_datasets")], "field_weight", "logprobs_field")
        ),
    ),
    Contradiction(
        ("interleave_probs", "mix_strategy"),
        "interleave_probs belongs to mix_strategy: interleave_under or interleave_over",
        "set one of them, or remove interleave_probs",
        lambda v: "interleave_probs" in v and v.get("mix_strategy", "concat") == "concat",
    ),
    Contradiction(
        ("mix_strategy", "datasets"),
        "mix_strategy mixes data sets, and there is one",
        "remove it, or name several under datasets",
        lambda v: (
            v.get("mix_strategy") in ("interleave_under", "interleave_over")
            and isinstance(v.get("datasets"), list)
            and len(v["datasets"]) == 1
        ),
    ),
    Contradiction(
        ("interleave_probs", "datasets"),
        "interleave_probs has another number of weights than there are data sets",
        "give one for each entry of datasets, in their order",
        lambda v: (
            isinstance(v.get("datasets"), list)
            and _num_weights(v.get("interleave_probs")) not in (None, len(v["datasets"]))
        ),
    ),
    Contradiction(
        ("streaming", "max_steps"),
        "nobody knows how long a stream is, so streaming needs max_steps",
        "set max_steps: the number of optimizer steps to train",
        lambda v: v.get("streaming") is True and not v.get("max_steps"),
    ),
    Contradiction(
        ("val_set_size", "streaming"),
        "a stream can't be split, so val_set_size holds nothing out of it",
        "name held-out records in test_datasets, and set val_set_size: 0",
        lambda v: v.get("streaming") is True and v.get("val_set_size"),
    ),
    Contradiction(
        ("saves_per_epoch", "evals_per_epoch", "save_strategy", "eval_strategy", "streaming"),
        "nobody knows where an epoch of a stream ends, to save or to evaluate by it",
        "set save_steps and eval_steps: steps, or a share of the run (0.1)",
        lambda v: (
            v.get("streaming") is True
            and (
                "saves_per_epoch" in v
                or "evals_per_epoch" in v
                or "epoch" in (v.get("save_strategy"), v.get("eval_strategy"))
            )
        ),
    ),
    Contradiction(
        ("datasets",),
        "a data set's `type:` names prompt, chosen, rejected or completion: preference records, "
        "which supervised tuning does not read",
        "name field_instruction, field_input and field_output; or say by rl: what they are for",
        lambda v: (
            not asks_for_preferences(v)
            and _has_preference_mapping(v.get("datasets"), v.get("test_datasets"))
        ),
    ),
    Contradiction(
        tuple(PREVIEWED),
        "more than one of rl, reward_model and process_reward_model asks for its own records",
        "keep one",
        lambda v: sum(bool(v.get(key)) for key in PREVIEWED) > 1,
    ),
    Contradiction(
        ("chat_template", "chat_template_jinja"),
        "chat_template: jinja needs the template itself",
        "give it as chat_template_jinja",
        lambda v: v.get("chat_template") == "jinja" and not v.get("chat_template_jinja"),
    ),
)

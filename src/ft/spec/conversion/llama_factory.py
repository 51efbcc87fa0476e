"""LLaMA-Factory's YAML and JSON (examples/train_lora/*.yaml) -> ours."""

from __future__ import annotations

from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.conversion.draft import Draft, No, Row, To
from ft.spec.conversion.hf_arguments import (
    HF_DEFAULTS,
    HF_ROWS,
    carry_training,
    names,
    whole,
)
from ft.spec.conversion.llama_factory_data import carry_datasets
from ft.spec.conversion.source_file import SourceFile

SIGNS = (
    "stage", "finetuning_type", "template", "cutoff_len", "lora_rank", "lora_target", "dataset_dir",
    "quantization_bit", "neat_packing", "val_size", "preprocessing_num_workers", "plot_loss",
    "flash_attn", "freeze_trainable_layers", "adapter_name_or_path", "overwrite_cache",
)  # fmt: skip
"""Keys that only LLaMA-Factory has."""
PROGRAMS = ("llamafactory-cli", "llamafactory")

_TOOL = "LLaMA-Factory"
_NOT_TRAINING = "not a matter of training"
_DEFAULT_RANK = 8
_ATTENTION = {
    "auto": None, "disabled": "eager", "off": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2",
    True: "flash_attention_2", False: "eager",
}  # fmt: skip


def _attention(name: Any) -> str | None:
    if name not in _ATTENTION:
        raise ValueError("not here; attn_implementation: auto takes the best that is installed")
    return _ATTENTION[name]


def _revision(name: Any) -> str | None:
    return None if name == "main" else str(name)


def _weights(value: Any) -> list[float]:
    return [float(each) for each in (names(value))]


def _inverse(value: Any) -> bool:
    return not value


_OTHER_METHOD = "another method of tuning: set adapter to one of docs/methods.md, or to none"
_CPU_OFFLOAD = "set gradient_checkpointing: true to save memory"

ROWS: dict[str, Row] = {
    **HF_ROWS,
    "model_name_or_path": To("base_model", str),
    "model_revision": To("revision_of_model", _revision),
    "flash_attn": To("attn_implementation", _attention),
    "cutoff_len": To("sequence_len", whole),
    "val_size": To("val_set_size", float),
    "train_on_prompt": To("train_on_inputs"),
    "additional_target": To("lora_modules_to_save", names),
    "lora_dropout": To("lora_dropout", float),
    "loraplus_lr_ratio": To("loraplus_lr_ratio"),
    "use_dora": To("peft_use_dora"),
    "use_rslora": To("peft_use_rslora"),
    "pissa_convert": No("what is saved fits the base as it is"),
    "oft_block_size": To("oft_block_size", whole),
    "add_tokens": To("tokens", names),
    "disable_gradient_checkpointing": To("gradient_checkpointing", _inverse),
    "early_stopping_steps": To("early_stopping_patience", whole),
    "rope_scaling": To("rope_scaling"),
    "shift_attn": To("s2_attention"),
    "streaming": To("streaming"),
    "trust_remote_code": No("code from a model repository is never run; most models need none"),
    "mask_history": No("there are no conversations, so there is no history to mask"),
    "efficient_eos": No("the end token of every answer is trained"),
    "overwrite_cache": No("the cache is keyed on the content"),
    "tokenized_path": No("the cache is keyed on the content; no path to give"),
    "preprocessing_num_workers": To("dataset_num_proc", whole),
    "preprocessing_batch_size": No("the tokenizer uses every core by itself", unless=(1000,)),
    "mix_strategy": To("mix_strategy", str),
    "interleave_probs": To("interleave_probs", _weights),
    "eval_on_each_dataset": No("held-out records are one set"),
    "ignore_pad_token_for_loss": No("pad tokens are never trained", unless=(True,)),
    "tool_format": No("tools are not written into prompts"),
    "media_dir": No("only texts are trained on"),
    "plot_loss": No("every loss is in events.jsonl of the run's folder"),
    "resize_vocab": No("embeddings grow by new tokens alone"),
    "use_unsloth": No("faster elsewhere, same result"),
    "use_unsloth_gc": No(_CPU_OFFLOAD),
    "use_reentrant_gc": No("recomputation is always of the non-reentrant kind", unless=(True,)),
    "enable_liger_kernel": No("faster elsewhere, same result"),
    "upcast_layernorm": No("trained weights are fp32 already"),
    "upcast_lmhead_output": No("the loss is computed in fp32 already"),
    "low_cpu_mem_usage": No("always on", unless=(True,)),
    "use_fast_tokenizer": No("always the fast tokenizer", unless=(True,)),
    "split_special_tokens": No("special tokens in records are read as such"),
    "cache_dir": No("set HF_HOME in the environment"),
    "enable_thinking": No("answers are trained as they stand", unless=(True,)),
    "compute_accuracy": No("type `ft eval RUN` afterwards"),
    "freeze_vision_tower": No("only texts are trained on", unless=(True,)),
    "train_from_scratch": No("set random_init_seed, with a folder of config.json and a tokenizer"),
    "quantization_method": No("4 and 8 bits are bitsandbytes' here", ("bnb", "bitsandbytes")),
    "quantization_type": No("4 bits are NF4 here", unless=("nf4",)),
    "double_quantization": No("4 bits are always quantized twice here", unless=(True,)),
    "create_new_adapter": No("lora_model_dir goes on from one adapter"),
    "ray_run_name": No("one machine, no Ray"),
    **dict.fromkeys(
        ["use_galore", "use_badam", "use_apollo", "use_adam_mini", "use_muon", "use_llama_pro",
         "mixture_of_depths", "fp8", "use_dft_loss", "freeze_trainable_layers",
         "freeze_trainable_modules", "freeze_extra_modules", "oft_rank"],
        No(_OTHER_METHOD),
    ),
    **dict.fromkeys(
        ["infer_backend", "infer_dtype", "export_dir", "export_size", "export_device",
         "max_new_tokens", "temperature", "top_p", "top_k", "do_sample", "repetition_penalty"],
        No(_NOT_TRAINING),
    ),
    "use_swanlab": To("use_swanlab"),
    "swanlab_project": To("swanlab_project", str),
    "swanlab_run_name": To("swanlab_experiment_name", str),
    "swanlab_mode": To("swanlab_mode", str),
}  # fmt: skip

DEFAULTS: dict[str, Any] = {
    **HF_DEFAULTS,
    "cutoff_len": 2048,
    "disable_gradient_checkpointing": False,
}


def convert_values(source: SourceFile, draft: Draft) -> None:
    """Fills the draft from a LLaMA-Factory file.

    Raises:
        UserError: The file trains in another way than supervised, or does not train at all.
    """
    stage = draft.peek("stage", "sft")
    if stage not in ("sft", "pt"):
        raise UserError(
            Problem(
                f"stage: {stage} is not supported here, only sft and pt",
                str(source.path),
                fix="convert a file of stage: sft or stage: pt",
            )
        )
    carry_datasets(draft, source.path)
    if "stage" in draft.theirs:
        draft.carried["stage"] = "datasets.type"
    _carry_method(draft)
    _carry_packing(draft)
    if special := draft.take("add_special_tokens"):
        before = draft.ours.get("special_tokens")
        tokens = {**(before.value if before else {}), "additional_special_tokens": names(special)}
        draft.carry("add_special_tokens", "special_tokens", tokens)
    if draft.take("pure_bf16"):
        draft.take("bf16")
        draft.carry("pure_bf16", "bf16", "full")
    if draft.ours.get("val_set_size") is None and draft.peek("val_size"):
        row = ROWS["val_size"]
        assert isinstance(row, To)
        draft.carry("val_size", "val_set_size", row.value(draft.take("val_size")))
    if "bf16" not in draft.ours:
        carry_training(draft, precision_default=False)
    draft.apply(ROWS, DEFAULTS)
    draft.set(
        "excess_length_strategy", "truncate", f"{_TOOL} cuts long records; ft would drop them"
    )


def _carry_method(draft: Draft) -> None:
    """finetuning_type and quantization_bit: which parameters are trained, on what base."""
    method, bits = draft.take("finetuning_type", "lora"), draft.take("quantization_bit")
    key = "finetuning_type"
    if method == "full":
        draft.carry(key, "adapter", None)
        for name in ("lora_rank", "lora_alpha", "lora_target", "lora_dropout"):
            draft.take(name)
        return
    adapter = "oft" if method == "oft" else "qlora" if bits == 4 else "lora"
    if method not in ("lora", "oft"):
        draft.lose(
            key, method, f"not here; adapter: {adapter} is written in its place: your choice"
        )
    draft.carry(key if method in ("lora", "oft") else "", "adapter", adapter)
    if bits in (4, 8):
        draft.carry("quantization_bit", f"load_in_{bits}bit", True)
    elif bits:
        draft.lose("quantization_bit", bits, "4 and 8 bits work here")
    if method == "oft":
        draft.take("lora_rank"), draft.take("lora_alpha")
    else:
        _carry_rank(draft)
    target = draft.take("lora_target", "all")
    if target == "all":
        draft.carry("lora_target", "lora_target_linear", True)
    else:
        draft.carry("lora_target", "lora_target_modules", names(target))
    if adapters := draft.take("adapter_name_or_path"):
        first, *others = names(adapters)
        draft.carry("adapter_name_or_path", "lora_model_dir", first)
        if others:
            draft.lose("adapter_name_or_path", ",".join(others), "one adapter is gone on from")


def _carry_rank(draft: Draft) -> None:
    """Rank and scale of LoRA, and what it begins with."""
    rank = whole(draft.take("lora_rank", _DEFAULT_RANK))
    rank_remark = "" if "lora_rank" in draft.theirs else f"{_TOOL}'s default"
    draft.carry("lora_rank", "lora_r", rank, comment=rank_remark)
    alpha_remark = "" if "lora_alpha" in draft.theirs else f"{_TOOL}'s default: twice the rank"
    alpha = draft.take("lora_alpha", 2 * rank)
    draft.carry("lora_alpha", "lora_alpha", alpha, comment=alpha_remark)
    num_iterations = draft.take("pissa_iter", 16)
    if draft.take("pissa_init"):
        if (first := _PISSA.get(num_iterations)) is None:
            draft.lose("pissa_iter", num_iterations, "4, 16 and -1 (exact) work here")
        draft.carry("pissa_init", "peft_init_lora_weights", first or "pissa")


_PISSA = {-1: "pissa", 4: "pissa_niter_4", 16: "pissa_niter_16"}
"""Steps of the randomized decomposition; -1: the exact one."""


def _carry_packing(draft: Draft) -> None:
    packing, neat = draft.take("packing"), draft.take("neat_packing")
    if draft.peek("stage") == "pt" and packing is None:
        packing = True
    if neat:
        draft.carry("neat_packing", "sample_packing", True)
    elif packing:
        why = "records in a row no longer see one another"
        draft.carry(
            "packing", "sample_packing", True, changed=why if "packing" in draft.theirs else ""
        )

"""torchtune's recipe YAMLs, with their `_component_` blocks -> ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.conversion.chat_formats import CHAT_FORMATS, ChatFormat
from ft.spec.conversion.draft import Draft, No, Row, To
from ft.spec.conversion.hf_arguments import whole
from ft.spec.conversion.source_file import SourceFile
from ft.spec.conversion.torchtune_data import carry_datasets
from ft.spec.conversion.writer import Setting

SIGNS = (
    "*._component_", "checkpointer", "metric_logger", "max_steps_per_epoch", "log_every_n_steps",
    "enable_activation_checkpointing", "clip_grad_norm",
)  # fmt: skip
PROGRAMS = ("tune",)

_TOOL = "torchtune"
_DOWNLOAD = re.compile(r"tune download\s+([\w.-]+/[\w.-]+)")
_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
_LENGTH = 4096
_MLP = ["gate_proj", "up_proj", "down_proj"]
_LAYERS = {"output_proj": "o_proj", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_OPTIMIZERS = {
    "AdamW": "adamw_torch",
    "AdamW8bit": "adamw_bnb_8bit",
    "PagedAdamW8bit": "paged_adamw_8bit",
    "PagedAdamW": "paged_adamw",
    "PagedAdamW32bit": "paged_adamw_32bit",
    "SGD": "sgd",
    "Adafactor": "adafactor",
}
_SCHEDULES = {
    "get_cosine_schedule_with_warmup": "cosine",
    "get_linear_schedule_with_warmup": "linear",
}
_FORMAT_OF_TOKENIZER = {
    "llama3_tokenizer": "llama3",
    "qwen2_tokenizer": "chatml",
    "qwen2_5_tokenizer": "chatml",
    "qwen3_tokenizer": "chatml",
    "phi3_mini_tokenizer": "phi",
    "phi4_tokenizer": "phi4",
}
_OTHER_RECIPES = (
    "dpo",
    "ppo",
    "grpo",
    "kd",
    "knowledge_distillation",
    "qat",
    "generate",
    "eleuther_eval",
)
_PLAIN = ChatFormat()
_OWN_LOSS = "the usual loss, on trained tokens alone"
_ONLY_TALK = "memory and speed are in events.jsonl of the run's folder"

ROWS: Mapping[str, Row] = {
    "batch_size": To("micro_batch_size", whole),
    "epochs": To("num_epochs", float),
    "gradient_accumulation_steps": To("gradient_accumulation_steps", whole),
    "log_every_n_steps": To("logging_steps", whole),
    "enable_activation_checkpointing": To("gradient_checkpointing"),
    "enable_activation_offloading": To("activation_offloading"),
    "compile": To("torch_compile"),
    "output_dir": To("output_dir", str),
    "shuffle": No("records are always shuffled", unless=(True,)),
    "loss": No(_OWN_LOSS),
    "resume_from_checkpoint": No("the same command resumes by itself"),
    "save_adapter_weights_only": No(
        "an adapter is saved in PEFT's own layout; `ft merge RUN` merges"
    ),
    "metric_logger": No("no tracker is connected; every metric is in events.jsonl"),
    "log_peak_memory_stats": No(_ONLY_TALK, unless=(True,)),
    "log_level": No(_ONLY_TALK, unless=("INFO",)),
    "profiler": No("see torch.profiler; not a matter of the config"),
    "device": No("the GPU is taken if there is one", unless=("cuda",)),
    "optimizer_in_bwd": No("use an 8-bit optimizer to save memory"),
    "enable_async_checkpointing": No("checkpoints are written when they are due"),
    "tensor_parallel_plan": No("one machine: the launcher decides"),
    "tensor_parallel_dim": No("one machine: the launcher decides", unless=(1,)),
    "data_parallel_shard_dim": No("one machine: the launcher decides", unless=(-1,)),
    "fsdp_cpu_offload": No("one GPU today"),
    "cudnn_deterministic_mode": To("deterministic", lambda value: bool(value) or None),
    "custom_sharded_layers": No("one GPU today"),
    "model_dir": No("only used to shorten other lines"),
    "run_val_every_n_steps": To("eval_steps", whole),
    "batch_size_val": To("eval_batch_size", whole),
}

DEFAULTS: Mapping[str, Any] = {}


def convert_values(source: SourceFile, draft: Draft) -> None:
    """Fills the draft from a recipe's YAML.

    Raises:
        UserError: The recipe trains in another way than supervised.
    """
    recipe = next((word for word in source.program.split() if word in _OTHER_RECIPES), "")
    loss = str(_component(draft.peek("loss")))
    if recipe or "DPO" in loss or "KD" in loss:
        what = f"{recipe or loss} is not supported: ft tunes on records with answers"
        raise UserError(Problem(what, str(source.path), fix="convert a *_lora or *_full config"))
    draft.theirs = _resolved(draft.theirs, draft.theirs)
    _carry_base(draft, source.comments)
    tokenizer = draft.take("tokenizer") or {}
    form = _format(tokenizer)
    carry_datasets(draft, form)
    if form.end and "datasets" in draft.ours:
        draft.carry(
            "tokenizer", "special_tokens", {"eos_token": form.end}, comment="ends an answer"
        )
    _carry_length(draft, tokenizer)
    _carry_adapter(draft)
    _carry_optimizer(draft)
    _carry_rest(draft)
    draft.apply(ROWS, DEFAULTS)


def _component(block: Any) -> str:
    """The last part of a block's `_component_`."""
    return (
        str(block.get("_component_", "")).rsplit(".", 1)[-1] if isinstance(block, Mapping) else ""
    )


def _resolved(value: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """The value with its `${output_dir}` filled in."""
    if isinstance(value, Mapping):
        return {key: _resolved(inner, root, depth) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, root, depth) for inner in value]
    if not isinstance(value, str) or depth > 8 or "${" not in value:
        return value

    def fill(match: re.Match[str]) -> str:
        found: Any = root
        for part in match[1].split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return match[0] if found is None else str(_resolved(found, root, depth + 1))

    return _INTERPOLATION.sub(fill, value)


def _carry_base(draft: Draft, comments: tuple[str, ...]) -> None:
    """The checkpoint's folder, or the hub name that the file's own remarks download it from."""
    block = draft.take("checkpointer") or {}
    folder = str(block.get("checkpoint_dir", "")).rstrip("/")
    found = _DOWNLOAD.search(" ".join(comments))
    if found and not Path(folder).is_dir():
        draft.carry("checkpointer", "base_model", found[1], comment=f"in the place of {folder}")
        draft.change("checkpointer", f"the model is read from the hub, as {found[1]}")
    elif folder:
        draft.carry(
            "checkpointer", "base_model", folder, comment="needs config.json and tokenizer.json"
        )
    if "MetaCheckpointer" in _component(block):
        draft.lose("checkpointer", _component(block), "only Hugging Face's format is read")


def _format(tokenizer: Any) -> ChatFormat:
    name = _FORMAT_OF_TOKENIZER.get(_component(tokenizer), "")
    return CHAT_FORMATS.get(name, _PLAIN)


def _carry_length(draft: Draft, tokenizer: Any) -> None:
    length = tokenizer.get("max_seq_len") if isinstance(tokenizer, Mapping) else None
    if length:
        draft.carry("tokenizer", "sequence_len", whole(length))
    else:
        draft.set("sequence_len", _LENGTH, "torchtune's null: no limit; here there must be one")
        draft.change(
            "tokenizer", f"records are cut at {_LENGTH} tokens; max_seq_len: null cuts nothing"
        )
    draft.set(
        "excess_length_strategy", "truncate", f"{_TOOL} cuts long records; ft would drop them"
    )
    for key in ("prompt_template",):
        if isinstance(tokenizer, Mapping) and tokenizer.get(key):
            draft.lose(f"tokenizer: {key}", tokenizer[key], "write it into type: as a mapping")


def _carry_adapter(draft: Draft) -> None:
    model = draft.take("model") or {}
    name = _component(model)
    if not name.startswith(("lora_", "qlora_")):
        draft.carried["model"] = "adapter"
        return
    is_four = name.startswith("qlora_") or bool(model.get("quantize_base"))
    draft.carry("model", "adapter", "qlora" if is_four else "lora")
    if is_four:
        draft.set("load_in_4bit", True)
    for theirs, ours, default in (("lora_rank", "lora_r", 8), ("lora_alpha", "lora_alpha", 16),
                                  ("lora_dropout", "lora_dropout", 0.0)):  # fmt: skip
        remark = "" if theirs in model else f"{_TOOL}'s default"
        draft.set(ours, model.get(theirs, default), remark)
    layers = [_LAYERS.get(layer, layer) for layer in model.get("lora_attn_modules", [])]
    layers += _MLP if model.get("apply_lora_to_mlp") else []
    layers += ["lm_head"] if model.get("apply_lora_to_output") else []
    draft.set("lora_target_modules", list(dict.fromkeys(layers)))
    if model.get("use_dora"):
        draft.carry("model", "peft_use_dora", True)


def _carry_optimizer(draft: Draft) -> None:
    block = dict(draft.take("optimizer") or {})
    name = _component(block)
    block.pop("_component_", None)
    ours = _OPTIMIZERS.get(name)
    if ours == "adamw_torch" and block.pop("fused", False):
        ours = "adamw_torch_fused"
    if name and ours is None:
        draft.lose("optimizer", name, "no such optimizer here; adamw_torch_fused is taken")
    draft.carry("optimizer", "optimizer", ours)
    if (rate := block.pop("lr", None)) is not None:
        draft.set("learning_rate", float(rate))
    decay = block.pop("weight_decay", 0.01 if name == "AdamW" else 0.0)
    if decay:
        draft.set("weight_decay", float(decay))
    if isinstance(betas := block.pop("betas", None), list) and len(betas) == 2:
        draft.set("adam_beta1", float(betas[0]))
        draft.set("adam_beta2", float(betas[1]))
    if (epsilon := block.pop("eps", None)) is not None:
        draft.set("adam_epsilon", float(epsilon))
    for key, value in block.items():
        draft.lose(f"optimizer: {key}", value, "optimizers have no such setting here")
    _carry_schedule(draft)


def _carry_schedule(draft: Draft) -> None:
    block = draft.take("lr_scheduler")
    if not block:
        draft.set("lr_scheduler", "constant", "torchtune's, where none is given")
        return
    name = _component(block)
    if name not in _SCHEDULES:
        draft.lose("lr_scheduler", name, "no such schedule here; cosine is taken")
    draft.carry("lr_scheduler", "lr_scheduler", _SCHEDULES.get(name, "cosine"))
    if block.get("num_warmup_steps"):
        draft.set("warmup_steps", whole(block["num_warmup_steps"]))


def _carry_rest(draft: Draft) -> None:
    """Precision, clipping, length of the run and seed."""
    dtype = draft.take("dtype", "bf16")
    draft.carry("dtype", "bf16", dtype == "bf16")
    if dtype not in ("bf16", "fp32"):
        draft.lose("dtype", dtype, "bf16 and fp32 work here; fp16: true computes in float16")
    if dtype == "bf16" and "adapter" not in draft.ours:
        draft.set("bf16", "full", "torchtune's bf16 holds the weights so too")
    clip = draft.take("clip_grad_norm")
    remark = "" if clip else "torchtune clips no gradients; most do at 1.0"
    draft.carry("clip_grad_norm", "max_grad_norm", float(clip or 0.0), comment=remark)
    steps = draft.take("max_steps_per_epoch")
    if steps:
        draft.carry(
            "max_steps_per_epoch", "max_steps", whole(steps) * whole(draft.peek("epochs", 1))
        )
    seed = draft.take("seed")
    if seed is not None:
        draft.carry("seed", "seed", whole(seed))
    draft.ours["save_strategy"] = Setting("epoch", "as torchtune does")

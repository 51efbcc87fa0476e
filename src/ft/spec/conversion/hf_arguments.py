"""transformers' TrainingArguments, whose names LLaMA-Factory, TRL and unsloth share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ft.spec.conversion.draft import Draft, No, Row, To
from ft.spec.document import parse_scalar
from ft.spec.runspec import Optimizers, Schedules, TrackerName

_RESUMES = "the same command resumes by itself"
_NO_DATA_WORKERS = "records are tokenized beforehand, so there is nothing to work on beside the GPU"
_TRACKER_FILES = "files of trackers are in trackers/ of the run's folder"
_LAUNCHER = "set by the launcher"
_ONLY_SPEED = "it changes the speed elsewhere, and no result"
_ONLY_TALK = "it changes what is printed, and no result"

_OPTIMIZERS_RENAMED = {
    "adamw_hf": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "rmsprop_bnb": "rmsprop",
    "lion": "lion_32bit",
}


def optimizer(name: str) -> str:
    """Their `optim` as ours."""
    name = _OPTIMIZERS_RENAMED.get(str(name), str(name))
    if name not in get_args(Optimizers):
        raise ValueError("no such optimizer here; `ft explain optimizer` lists those there are")
    return name


def schedule(name: str) -> str:
    """Their `lr_scheduler_type` as ours."""
    if str(name) not in get_args(Schedules):
        raise ValueError("no such schedule here; `ft explain lr_scheduler` lists those there are")
    return str(name)


def count_or_none(number: Any) -> int | None:
    """A count, where 0 and -1 mean that there is none."""
    return int(number) if float(number) > 0 else None


def whole(number: Any) -> int:
    """A whole number that may be written 2.0."""
    if float(number) != int(number):
        raise ValueError("only whole numbers work here")
    return int(number)


def arguments(value: Any) -> dict[str, Any]:
    """Arguments by name: a mapping, its JSON, or `name=value,...`."""
    if isinstance(value, str):
        pairs = [part.split("=", 1) for part in value.split(",")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("write it as a mapping: {name: value}")
        return {name.strip(): parse_scalar(text) for name, text in pairs}
    return dict(value)


def names(value: Any) -> list[str]:
    """Names in a list, or in a text with commas between them."""
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts if str(part).strip()]


def trackers(value: Any) -> list[str] | None:
    """Their `report_to` as ours; None where none is asked for."""
    asked = [name for name in names(value) if name != "none"]
    unknown = [name for name in asked if name not in get_args(TrackerName)]
    if unknown:
        raise ValueError(f"{unknown[0]} is none of {', '.join(get_args(TrackerName))}")
    return asked or None


HF_ROWS: Mapping[str, Row] = {
    "per_device_train_batch_size": To("micro_batch_size", whole),
    "per_device_eval_batch_size": To("eval_batch_size", whole),
    "gradient_accumulation_steps": To("gradient_accumulation_steps", whole),
    "learning_rate": To("learning_rate", float),
    "num_train_epochs": To("num_epochs", float),
    "max_steps": To("max_steps", count_or_none),
    "lr_scheduler_type": To("lr_scheduler", schedule),
    "optim": To("optimizer", optimizer),
    "weight_decay": To("weight_decay", float),
    "adam_beta1": To("adam_beta1", float),
    "adam_beta2": To("adam_beta2", float),
    "adam_epsilon": To("adam_epsilon", float),
    "max_grad_norm": To("max_grad_norm", float),
    "gradient_checkpointing": To("gradient_checkpointing"),
    "seed": To("seed", whole),
    "logging_steps": To("logging_steps", whole),
    "save_total_limit": To("save_total_limit", whole),
    "load_best_model_at_end": To("load_best_model_at_end"),
    "output_dir": To("output_dir", str),
    "tf32": To("tf32"),
    "lr_scheduler_kwargs": To("lr_scheduler_kwargs", arguments),
    "optim_args": To("optim_args", arguments),
    "neftune_noise_alpha": To("neftune_noise_alpha", float),
    "label_smoothing_factor": To("label_smoothing_factor", float),
    "group_by_length": To("group_by_length"),
    "torch_compile": To("torch_compile"),
    "deepspeed": To("deepspeed"),
    "fsdp": To("fsdp"),
    "fsdp_config": To("fsdp_config"),
    "hub_model_id": To("hub_model_id"),
    "hub_strategy": To("hub_strategy"),
    "activation_offloading": To("activation_offloading"),
    "report_to": To("report_to", trackers),
    "logging_dir": No(_TRACKER_FILES),
    "run_name": No("name it for the tracker: wandb_name, mlflow_run_name, trackio_run_name, ..."),
    "project": No("set trackio_project_name, which has Trackio log"),
    "resume_from_checkpoint": No(_RESUMES),
    "overwrite_output_dir": No("type `ft train CFG --overwrite` when you want it"),
    "ignore_data_skip": No(_RESUMES),
    "do_train": No("type `ft train`", unless=(True,)),
    "do_eval": No("held-out records are evaluated by eval_steps or eval_strategy"),
    "do_predict": No("type `ft eval RUN` or `ft infer RUN --input FILE` afterwards"),
    "predict_with_generate": No("type `ft eval RUN` afterwards"),
    "save_only_model": No("a checkpoint always holds what resuming takes"),
    "save_safetensors": No("weights are always saved as safetensors", unless=(True,)),
    "push_to_hub": No("nothing is uploaded by training"),
    "data_seed": No("`seed` draws the order of the records as well"),
    "full_determinism": To("deterministic", lambda value: bool(value) or None),
    "metric_for_best_model": No("the held-out loss decides", unless=("loss", "eval_loss")),
    "greater_is_better": No("the held-out loss decides, and less is better"),
    "gradient_checkpointing_kwargs": No("recomputation is always of the non-reentrant kind"),
    "remove_unused_columns": No("columns that no layout reads never reach the model", (True,)),
    "auto_find_batch_size": No("set micro_batch_size and gradient_accumulation_steps"),
    "include_num_input_tokens_seen": No("tokens are always counted, in events.jsonl"),
    "dataloader_drop_last": No("every record is trained on"),
    "use_liger_kernel": No(_ONLY_SPEED),
    "bf16_full_eval": No("evaluation computes as training does"),
    "fp16_full_eval": No("evaluation computes as training does"),
    "push_to_hub_token": No("a secret; run `hf auth login`"),
    "use_cpu": No("the GPU is taken if there is one"),
    **dict.fromkeys(
        ["dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
         "dataloader_persistent_workers"],
        No(_NO_DATA_WORKERS, unless=(True,)),
    ),
    **dict.fromkeys(
        ["ddp_timeout", "ddp_find_unused_parameters", "ddp_backend", "local_rank",
         "ddp_bucket_cap_mb"],
        No(_LAUNCHER, unless=(-1,)),
    ),
    **dict.fromkeys(
        ["disable_tqdm", "log_level", "log_level_replica", "logging_first_step",
         "logging_nan_inf_filter", "prediction_loss_only", "skip_memory_metrics"],
        No(_ONLY_TALK, unless=(True,)),
    ),
}  # fmt: skip
"""Keys that stand for themselves; those that depend on one another are in `carry_schedules`."""

HF_DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 8,
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch_fused",
}
"""Their defaults, of those that change what is learned."""

_USUAL_INTERVAL = 500


def carry_training(draft: Draft, *, precision_default: bool | str) -> None:
    """Warm-up, precision, and when to save and to evaluate: keys that decide it together.

    Call it once the data sets are there.

    Args:
        draft: Of a tool that has transformers' keys.
        precision_default: What `bf16` is where neither format is asked for.
    """
    _carry_warmup(draft)
    _carry_precision(draft, precision_default)
    _carry_saves(draft)
    _carry_evaluations(draft)


def _carry_warmup(draft: Draft) -> None:
    steps, ratio = draft.take("warmup_steps"), draft.take("warmup_ratio")
    if steps is not None and 0 < float(steps) < 1:
        draft.carry("warmup_steps", "warmup_ratio", float(steps))
    elif steps:
        draft.carry("warmup_steps", "warmup_steps", whole(steps))
        if ratio:
            draft.lose("warmup_ratio", ratio, "warmup_steps decides where both are given")
        return
    if ratio:
        draft.carry("warmup_ratio", "warmup_ratio", float(ratio))


def _carry_precision(draft: Draft, default: bool | str) -> None:
    bf16, fp16 = draft.take("bf16"), draft.take("fp16")
    if fp16 is True:
        draft.carry("fp16", "fp16", True)
    elif bf16 is True:
        draft.carry("bf16", "bf16", True)
    else:
        key = "bf16" if bf16 is not None else ""
        comment = "" if key else f"{draft.tool}'s default"
        remark = "computed in fp32; `bf16: auto` is faster" if default is False else comment
        draft.carry(key, "bf16", default, comment=remark)


def _carry_saves(draft: Draft) -> None:
    strategy, steps = draft.take("save_strategy", "steps"), draft.take("save_steps")
    if strategy == "steps":
        interval = steps if steps is not None else _USUAL_INTERVAL
        remark = "" if steps is not None else f"{draft.tool}'s default"
        key = "save_strategy" if steps is None else "save_steps"
        draft.carry(key, "save_steps", interval, comment=remark)
    elif strategy in ("epoch", "no", False):
        draft.carry("save_strategy", "save_strategy", strategy or "no")
    else:
        draft.lose("save_strategy", strategy, "use save_steps, or save_strategy: epoch")


def _carry_evaluations(draft: Draft) -> None:
    old, new = draft.take("evaluation_strategy"), draft.take("eval_strategy")
    key = "eval_strategy" if new is not None else "evaluation_strategy"
    strategy, steps = new if new is not None else old, draft.take("eval_steps")
    if not ("val_set_size" in draft.ours or "test_datasets" in draft.ours):
        if strategy not in (None, "no", False):
            draft.lose(key, strategy, "there are no held-out records; set val_set_size")
        return
    if strategy == "steps":
        interval = steps or draft.peek("logging_steps") or _USUAL_INTERVAL
        draft.carry("eval_steps" if steps else key, "eval_steps", interval)
        draft.carried.setdefault(key, "eval_steps")
    elif strategy == "epoch":
        draft.carry(key, "eval_strategy", "epoch")
    else:
        draft.carry(key, "eval_strategy", "no", comment=f"as {draft.tool} has it: at the end only")

"""`fsdp`, `deepspeed`, `context_parallel_size`, ...: what spreads one model over processes.

They are read into types, so that a mistake in them is told where it stands. What they ask for is
not built: with one process there is nothing to spread, and the numbers are those of a plain run;
with several, each would hold the whole model, so they are an error there.

Field names are FSDP's and DeepSpeed's own (https://www.deepspeed.ai/docs/config-json/, accelerate's
FullyShardedDataParallelPlugin); those of FSDP are written with and without `fsdp_` before them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ft.spec.document import KeyPath
from ft.spec.nearest import nearest
from ft.spec.runspec import Count, Section
from ft.spec.type_errors import errors_by_key, fix_of_value, mismatch

Auto = Literal["auto"]
Size = Annotated[float, Field(ge=0)] | Auto
"""A number of elements, often written 5e8."""
Switch = bool | Auto


class FsdpConfig(Section):
    """`fsdp_config`: how the parameters are sharded."""

    version: Literal[1, 2] | None = None
    sharding_strategy: (
        Literal["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "HYBRID_SHARD_ZERO2"]
        | None
    ) = None
    reshard_after_forward: bool | None = None
    offload_params: bool | None = None
    cpu_offload_pin_memory: bool | None = None
    auto_wrap_policy: Literal["TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"] | None = None
    transformer_layer_cls_to_wrap: str | tuple[str, ...] | None = None
    min_num_params: Count | None = None
    state_dict_type: Literal["FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT"] | None = (
        None
    )
    final_state_dict_type: (
        Literal["FULL_STATE_DICT", "LOCAL_STATE_DICT", "SHARDED_STATE_DICT"] | None
    ) = None
    activation_checkpointing: bool | None = None
    backward_prefetch: Literal["BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"] | None = None
    forward_prefetch: bool | None = None
    limit_all_gathers: bool | None = None
    sync_module_states: bool | None = None
    cpu_ram_efficient_loading: bool | None = None
    use_orig_params: bool | None = None
    mixed_precision_policy: str | None = None


class Parallelism(Section):
    """Over how many processes something is spread, and by what; each key at the top level."""

    dp_shard_size: Count | None = None
    dp_replicate_size: Count | None = None
    context_parallel_size: Count | None = None
    sequence_parallel_degree: Count | None = None
    tensor_parallel_size: Count | None = None
    expert_parallel_size: Count | None = None
    expert_parallel_backend: Literal["deep_ep"] | None = None
    expert_parallel_num_nvl_bytes: Size | None = None
    expert_parallel_num_rdma_bytes: Size | None = None
    expert_parallel_token_capacity: Count | None = None
    expert_parallel_fallback_on_unsupported: bool | None = None


class Offload(Section):
    """Where DeepSpeed keeps what the card has no room for."""

    device: Literal["cpu", "nvme", "none"] | None = None
    nvme_path: str | None = None
    pin_memory: bool | None = None
    ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    buffer_count: Count | None = None
    buffer_size: Size | None = None
    max_in_cpu: Size | None = None
    pipeline: bool | None = None
    pipeline_read: bool | None = None
    pipeline_write: bool | None = None
    fast_init: bool | None = None


class ZeroOptimization(Section):
    """What of the model is sharded."""

    stage: Literal[0, 1, 2, 3] | None = None
    offload_optimizer: Offload | None = None
    offload_param: Offload | None = None
    overlap_comm: bool | None = None
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    reduce_bucket_size: Size | None = None
    allgather_partitions: bool | None = None
    allgather_bucket_size: Size | None = None
    round_robin_gradients: bool | None = None
    sub_group_size: Size | None = None
    ignore_unused_parameters: bool | None = None
    gather_16bit_weights_on_model_save: bool | None = None
    max_live_parameters: Size | None = None
    max_reuse_distance: Size | None = None
    stage3_prefetch_bucket_size: Size | None = None
    stage3_param_persistence_threshold: Size | None = None
    stage3_max_live_parameters: Size | None = None
    stage3_max_reuse_distance: Size | None = None
    stage3_gather_16bit_weights_on_model_save: bool | None = None
    stage3_gather_fp16_weights_on_model_save: bool | None = None
    zero_hpz_partition_size: Count | None = None
    zero_quantized_weights: bool | None = None
    zero_quantized_gradients: bool | None = None


class Bf16(Section):
    """bfloat16 in DeepSpeed's hands."""

    enabled: Switch | None = None


class Fp16(Section):
    """float16 in DeepSpeed's hands, with its loss scaler."""

    enabled: Switch | None = None
    auto_cast: bool | None = None
    loss_scale: Annotated[float, Field(ge=0)] | None = None
    loss_scale_window: Count | None = None
    initial_scale_power: Count | None = None
    hysteresis: Count | None = None
    min_loss_scale: Annotated[float, Field(ge=0)] | None = None


class ActivationCheckpointing(Section):
    """What DeepSpeed recomputes."""

    partition_activations: bool | None = None
    cpu_checkpointing: bool | None = None
    contiguous_memory_optimization: bool | None = None
    number_checkpoints: Count | None = None
    synchronize_checkpoint_boundary: bool | None = None
    profile: bool | None = None


class Compile(Section):
    """Whether DeepSpeed compiles the model."""

    disable: bool | None = None
    deepcompile: bool | None = None
    backend: str | None = None


class NamedPart(Section):
    """An optimizer or schedule of DeepSpeed's own."""

    type: str
    params: dict[str, Any] = Field(default_factory=dict)


class DeepSpeedConfig(Section):
    """`deepspeed` as a mapping: what its JSON file holds."""

    zero_optimization: ZeroOptimization | None = None
    bf16: Bf16 | None = None
    fp16: Fp16 | None = None
    optimizer: NamedPart | None = None
    scheduler: NamedPart | None = None
    activation_checkpointing: ActivationCheckpointing | None = None
    compile: Compile | None = None
    gradient_accumulation_steps: Count | Auto | None = None
    gradient_clipping: Annotated[float, Field(ge=0)] | Auto | None = None
    train_batch_size: Count | Auto | None = None
    train_micro_batch_size_per_gpu: Count | Auto | None = None
    steps_per_print: Annotated[float, Field(gt=0)] | None = None
    wall_clock_breakdown: bool | None = None
    communication_data_type: str | None = None
    prescale_gradients: bool | None = None
    gradient_predivide_factor: float | None = None
    zero_allow_untested_optimizer: bool | None = None
    zero_force_ds_cpu_optimizer: bool | None = None


_FSDP_OPTIONS = ("full_shard", "shard_grad_op", "no_shard", "hybrid_shard", "hybrid_shard_zero2",
                 "offload", "auto_wrap")  # fmt: skip
_DEEPSPEED_ITSELF = (
    ("optimizer", "set optimizer, learning_rate and weight_decay at the top level"),
    ("scheduler", "set lr_scheduler and warmup_steps at the top level"),
)
PARALLEL_KEYS = tuple(Parallelism.model_fields)
SIZES = ("dp_shard_size", "dp_replicate_size", "context_parallel_size", "tensor_parallel_size",
         "sequence_parallel_degree", "expert_parallel_size")  # fmt: skip
"""Numbers of processes; 1 asks for nothing."""
KEYS = ("fsdp", "fsdp_config", "fsdp_version", "deepspeed", *SIZES)


def check_distributed(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str, str]]:
    """What is wrong with the blocks of a file.

    Yields:
        The key, what is wrong and what to do.
    """
    yield from _check_fsdp_list(values.get("fsdp"))
    if version := values.get("fsdp_version"):
        yield from _errors_of(FsdpConfig, ("fsdp_version",), {"version": version}, is_at_top=True)
    if (config := values.get("fsdp_config")) is not None:
        yield from _errors_of(FsdpConfig, ("fsdp_config",), config)
    yield from _check_deepspeed(values.get("deepspeed"))
    for key in PARALLEL_KEYS:
        if (value := values.get(key)) is not None:
            yield from _errors_of(Parallelism, (key,), {key: value}, is_at_top=True)
    if _num_processes() > 1:
        for key in KEYS:
            if values.get(key) and not (key in SIZES and values[key] == 1):
                yield (
                    (key,),
                    f"{key} is not supported with several processes",
                    "remove it: each process then holds the whole model; or start one process",
                )


def _check_fsdp_list(options: Any) -> Iterator[tuple[KeyPath, str, str]]:
    for option in options.split() if isinstance(options, str) else options or ():
        if option not in _FSDP_OPTIONS:
            guess = nearest(str(option), _FSDP_OPTIONS)
            fix = f"did you mean {guess}?" if guess else f"one of {', '.join(_FSDP_OPTIONS)}"
            yield ("fsdp",), f"fsdp: there is no {option!r}", fix


def _check_deepspeed(config: Any) -> Iterator[tuple[KeyPath, str, str]]:
    """A path is taken as it stands: its file is not needed where there is nothing to spread."""
    if config is None or config is False or isinstance(config, str):
        return
    yield from _errors_of(DeepSpeedConfig, ("deepspeed",), config)
    for part, fix in _DEEPSPEED_ITSELF:
        if isinstance(config, dict) and config.get(part):
            yield ("deepspeed", part), f"deepspeed.{part} is not supported", fix


def _errors_of(
    model: type[Section], key_path: KeyPath, given: Any, *, is_at_top: bool = False
) -> Iterator[tuple[KeyPath, str, str]]:
    """The errors of one block, at the keys as they are written in the file."""
    written = {_plain(key): key for key in given} if isinstance(given, dict) else {}
    values = {_plain(key): _tuples(item) for key, item in given.items()} if written else given
    try:
        model.model_validate(values or {} if isinstance(values, dict) else values)
    except ValidationError as error:
        for path, details in errors_by_key(error, skip=0).items():
            inside = (written.get(str(path[0]), path[0]), *path[1:]) if path else ()
            place = key_path if is_at_top else (*key_path, *inside)
            name = ".".join(map(str, place))
            if details[0]["type"] == "extra_forbidden":
                guess = nearest(str(path[-1]), _names_in(model, path[:-1]))
                fix = f"did you mean {guess}?" if guess else "remove it"
                yield place, f"unknown key {name!r}", fix
            elif details[0]["type"] == "missing":
                yield place, f"{name} is missing", "add it"
            else:
                fix = fix_of_value(place, details)
                explained = "" if fix.startswith("ft explain") else fix
                yield place, f"{name}: {mismatch(details)}", explained or "see the values expected"


def _names_in(model: Any, path: KeyPath) -> list[str]:
    """The fields of the block that a path leads to."""
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        model = next(kind for kind in annotation.__args__ if hasattr(kind, "model_fields"))
    return list(model.model_fields)


def _plain(key: str) -> str:
    return key.removeprefix("fsdp_")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _num_processes() -> int:
    """Of this run; the launcher tells each of them."""
    count = os.environ.get("WORLD_SIZE", "1")
    return int(count) if count.isdigit() else 1

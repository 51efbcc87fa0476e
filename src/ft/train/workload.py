"""What a run computes, as plain numbers: rows, optimizer, loss; from specs to a plan's need.

Everything that `ft plan` says beforehand, `ft train` says from here too, so they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ft.data.feed import TrainingData
from ft.kernels.linear_cross_entropy import MAX_CHUNK_LOGITS
from ft.model import Attention, Hardware, Precision, choose_attention, choose_precision
from ft.model.attention import read_attention_traits
from ft.model.base import load_config
from ft.model.skeleton import build_skeleton
from ft.plan import (
    STAND_IN,
    LossNeed,
    ModelShape,
    RunNeed,
    StepWork,
    read_shape,
    register_stand_in,
)
from ft.runtime import UserError
from ft.spec import RunSpec
from ft.spec.methods import can_recompute
from ft.train.optimizer import optimizer_need

NOT_COUNTED = (
    UserError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    AssertionError,
)
"""What a model raises that can't be run without values."""


@dataclass(frozen=True)
class Rows:
    """The rows (records, or packs of them) of a run."""

    num_rows: int | None
    """In an epoch; None where nobody can know."""
    longest: int
    """Tokens."""
    mean: float
    mean_length: float
    """Tokens of the record that a mean token is in."""
    trained_share: float
    """Of the tokens."""
    sum_of_longest: int
    """Tokens of the longest optimizer step that could come, on one device."""


def rows_of(
    lengths: npt.ArrayLike, spec: RunSpec, *, trained_share: float, num_processes: int = 1
) -> Rows:
    """What the lengths of the records come to.

    Args:
        lengths: Tokens of each record.
        spec: How they are grouped.
        trained_share: Of the tokens, those that are trained.
        num_processes: Those that share the rows of a step.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    mean_length = float((tokens.astype(float) ** 2).sum() / tokens.sum())
    count = rows_per_device(spec)
    room = spec.data.sequence_len
    if spec.training.sample_packing:
        num_rows = max(1, -(-int(tokens.sum()) // room))
        mean = float(tokens.sum()) / num_rows
        return Rows(num_rows, room, mean, mean_length, trained_share, room * min(count, num_rows))
    longest = np.sort(tokens)[-count:]
    return Rows(
        len(tokens),
        int(tokens.max()),
        float(tokens.mean()),
        mean_length,
        trained_share,
        int(longest.sum()),
    )


def rows_of_data(data: TrainingData, spec: RunSpec) -> Rows:
    """What prepared data comes to; assumed where it is a stream."""
    if data.num_train_records is None:
        return assumed_rows(spec)
    train = data.samples
    return rows_of(train.lengths, spec, trained_share=train.num_trained_tokens / train.num_tokens)


def assumed_rows(spec: RunSpec) -> Rows:
    """Rows that are as long as they may be, where their lengths are not known: all trained."""
    room = spec.data.sequence_len
    return Rows(None, room, room, room, 1.0, room * rows_per_device(spec))


def rows_per_device(spec: RunSpec) -> int:
    """Rows of an optimizer step on one device."""
    return spec.training.micro_batch_size * spec.training.gradient_accumulation_steps


def recompute_of(spec: RunSpec) -> bool | str:
    """What may be recomputed: where memory asks for it (True), "always", or never (False)."""
    asked = spec.training.gradient_checkpointing
    if not can_recompute(spec.adapter.adapter):
        return False
    return True if asked is None else asked


@dataclass(frozen=True)
class Formats:
    """In what a run computes, on a certain machine."""

    precision: Precision
    attention: Attention
    is_compiled: bool


def formats_of(spec: RunSpec, hardware: Hardware, config: Any) -> Formats:
    """What would be chosen on this hardware."""
    precision = choose_precision(spec.precision, hardware, trains_all=spec.adapter.adapter is None)
    attention = choose_attention(
        spec.model.attn_implementation,
        hardware,
        read_attention_traits(config),
        compute=precision.compute,
    )
    return Formats(precision, attention, is_compiled(spec, hardware))


def is_compiled(spec: RunSpec, hardware: Hardware) -> bool:
    """Whether layers run compiled where gradients are made."""
    asked = spec.training.torch_compile
    return hardware.kind == "cuda" if asked == "auto" else asked


def need_of(
    spec: RunSpec, rows: Rows, hardware: Hardware, *, num_tokens: int | None = None
) -> RunNeed:
    """All that a plan for the run depends on, the machine's memory and rates aside.

    Args:
        spec: The run.
        rows: Its data.
        hardware: Decides formats and attention.
        num_tokens: Size of the tokenizer's vocabulary, if it is known.

    Raises:
        UserError: the config cannot be read, or the specs do not fit it.
    """
    config = load_config(spec.model.model_copy(update={"reinit_weights": True}))
    formats = formats_of(spec, hardware, config)
    precision = formats.precision
    shape = _shape_of(spec, formats, hardware, num_tokens)
    sizes, held = shape.trained_sizes, precision.trainable_dtype
    trained_bytes = 4 if spec.adapter.adapter is None and precision.weights == "fp32" else None
    is_flat = formats.attention.is_varlen
    batch_size = spec.training.micro_batch_size
    pass_tokens = batch_size * (spec.data.sequence_len if is_flat else rows.longest)
    count = rows_per_device(spec)
    step_tokens = rows.sum_of_longest if is_flat else rows.longest * count
    return RunNeed(
        model=shape,
        optimizer=optimizer_need(
            spec.training.optimizer,
            sizes,
            weight_bytes=trained_bytes or held.itemsize,
            is_cuda=hardware.kind == "cuda",
        ),
        loss=_loss_need(shape, formats, round(pass_tokens * rows.trained_share)),
        work=StepWork(rows.mean * count, rows.mean * count * rows.trained_share, rows.mean_length),
        longest_row=rows.longest,
        pass_tokens=pass_tokens,
        step_tokens=step_tokens,
        trained_share=rows.trained_share,
        is_flat=is_flat,
        is_compiled=formats.is_compiled,
    )


def _shape_of(
    spec: RunSpec, formats: Formats, hardware: Hardware, num_tokens: int | None
) -> ModelShape:
    precision, attention = formats.precision, formats.attention
    as_it_runs = "sdpa" if attention.is_varlen else attention.implementation
    register_stand_in()
    skeleton = build_skeleton(
        spec.model,
        spec.adapter,
        precision,
        attention=STAND_IN,
        num_tokens=num_tokens,
    )
    return read_shape(
        skeleton.module,
        skeleton.layers,
        quantized=skeleton.quantized,
        compute=precision.compute_dtype,
        autocast=precision.autocast != "no",
        is_compiled=formats.is_compiled,
        attention=STAND_IN if hardware.kind == "cuda" else as_it_runs,
    )


_EAGER_LOSS_BYTES = 12
"""A logit, its fp32 form, exponential and gradient, as they come and go; measured."""


def _loss_need(shape: ModelShape, formats: Formats, num_trained: int) -> LossNeed:
    """The head in chunks: logits and their gradient; and what it holds until the backward pass.

    What lies between is fused where layers are compiled; else up to 12 bytes a logit are there.
    """
    size = shape.head_bytes
    num_logits = min(MAX_CHUNK_LOGITS, max(num_trained, 1) * shape.vocab_size)
    chunk = num_logits * (2 * size if formats.is_compiled else _EAGER_LOSS_BYTES)
    if shape.trains_head:
        chunk += shape.vocab_size * shape.hidden_size * (4 + 2 * size)
    return LossNeed(bytes_per_trained_token=shape.hidden_size * size, fixed_bytes=chunk)

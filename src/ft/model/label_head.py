"""The head of a classifier: the few layers behind the body that tell labels, or a number.

A body seldom brings one, so the head is drawn from the run's seed, on the CPU, the same on every
device. It is trained in full and kept beside the adapter (PEFT's modules_to_save); a quantized base
leaves it out. Its pooling is the model's own: the first token's vector in most encoders, the last
one's in decoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging

from ft.runtime.errors import Problem, UserError
from ft.spec.classification import Classification

TASK_TYPE = "SEQ_CLS"
"""PEFT's word for it."""


@dataclass(frozen=True)
class Head:
    """A head to put behind the body.

    Attributes:
        task: What it tells.
        seed: Of its first weights.
        replaces: A head for other labels that the checkpoint has gives way to it.
    """

    task: Classification
    seed: int
    replaces: bool = False

    def as_distributions(self, logits: Tensor) -> Tensor:
        """One record's logits [L] as rows of logits whose softmax is what they say.

        Returns:
            [1, L] of one label of several; [L, 2] of labels that are there or not; of a number
            [1, 2], as if it were one of those.
        """
        if self.task.is_regression or self.task.is_multi_label:
            return torch.stack([logits, torch.zeros_like(logits)], dim=-1)
        return logits[None]

    def describe(self, config: Any) -> None:
        """Says in a transformers config what the head tells."""
        config.id2label = dict(enumerate(self.task.labels))
        config.label2id = {name: number for number, name in config.id2label.items()}
        config.problem_type = self.task.problem_type


def head_modules(model: Any) -> tuple[str, ...]:
    """Names of the modules behind a classifier's body; none where the model is no classifier."""
    if type(model).__name__ not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values():
        return ()
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )


def head_modules_of(config: Any) -> list[str]:
    """The same, of the classifier that a config describes; nothing is loaded for it."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    return list(head_modules(model))


def is_in_head(name: str, modules: Sequence[str]) -> bool:
    """Whether a parameter or a module belongs to the head."""
    return name.split(".")[0] in modules


@contextmanager
def without_load_report() -> Iterator[None]:
    """Keeps transformers from warning of a head that is new, or gives way: `settle_head` tells."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def settle_head(
    model: Any, head: Head, loading: Mapping[str, Any], names_before: Mapping[int, str], where: str
) -> list[str]:
    """Draws what the checkpoint lacks of the head, and takes what it has if it fits.

    Args:
        model: As loaded; what it lacks holds anything.
        head: What was asked for.
        loading: transformers' account of the loading.
        names_before: `id2label` of the checkpoint itself.
        where: The base, for messages.

    Returns:
        Notes for the user.

    Raises:
        UserError: the checkpoint has a head for other labels, or for the same in another order.
    """
    modules = head_modules(model)
    mismatched = [str(each[0]) for each in loading.get("mismatched_keys", ())]
    others = [name for name in mismatched if is_in_head(name, modules)]
    missing = [name for name in loading.get("missing_keys", ()) if is_in_head(name, modules)]
    theirs = ", ".join(names_before.values())
    if others and not head.replaces:
        raise UserError(
            Problem(
                f"has a head for {len(names_before)} other labels ({theirs}), and the run has "
                f"{len(head.task.labels)}",
                where,
                fix="ignore_mismatched_sizes: true puts a new head in its place",
            )
        )
    if others or missing:
        _draw(model, {name.rpartition(".")[0] for name in (*others, *missing)}, head.seed)
        what = "replaced by a new one" if others else "new"
        return [f"head ({', '.join(modules)}): {what}, drawn from seed {head.seed}"]
    return _kept(head.task.labels, tuple(names_before.values()), where)


def _kept(labels: tuple[str, ...], theirs: tuple[str, ...], where: str) -> list[str]:
    """What to say of a head that goes on."""
    if labels != theirs and sorted(labels) == sorted(theirs):
        fix = f"set id2label: [{', '.join(theirs)}]"
        what = "its head has the same labels in another order"
        raise UserError(Problem(what, where, fix=fix))
    is_named = any(not name.startswith("LABEL_") for name in theirs)
    renamed = f", its labels ({', '.join(theirs)}) are called {', '.join(labels)} now"
    return [f"head: the base's own goes on{renamed if is_named and labels != theirs else ''}"]


@torch.no_grad()
def _draw(model: Any, paths: set[str], seed: int) -> None:
    """Linear layers as transformers begins them: normal, of the config's spread; biases 0."""
    generator = torch.Generator().manual_seed(seed)
    spread = getattr(model.config, "initializer_range", None) or 0.02
    for path in sorted(paths):
        layer = model.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            continue  # a norm: ones and zeros, as transformers left it
        drawn = torch.empty(layer.weight.shape).normal_(0.0, spread, generator=generator)
        layer.weight.copy_(drawn)
        if layer.bias is not None:
            layer.bias.zero_()


def keep_head(config: Any, model: Any) -> None:
    """Has a PEFT config train and save the head whole, and leave it without an adapter; in place.

    Args:
        config: PEFT's, before it meets the model.
        model: The base; nothing happens where it is no classifier.
    """
    modules = head_modules(model)
    if not modules:
        return
    config.task_type = TASK_TYPE
    if hasattr(config, "modules_to_save"):
        config.modules_to_save = sorted({*(config.modules_to_save or ()), *modules})
    inner = sorted(
        name
        for name, layer in model.named_modules()
        if is_in_head(name, modules) and isinstance(layer, nn.Linear)
    )
    if hasattr(config, "exclude_modules"):
        config.exclude_modules = sorted({*(config.exclude_modules or ()), *inner})


def require_positions(model: Any, sequence_len: int | None, where: str) -> None:
    """Refuses records longer than a table of positions: there is no row for what is beyond it.

    Raises:
        UserError: the model has such a table, and it is shorter than ``sequence_len``.
    """
    for name, table in model.named_modules():
        if name.rpartition(".")[2] not in ("position_embeddings", "wpe"):
            continue
        if not isinstance(table, nn.Embedding) or sequence_len is None:
            continue
        first = 0 if table.padding_idx is None else table.padding_idx + 1
        if sequence_len > (usable := table.num_embeddings - first):
            what = f"has {usable} positions, and sequence_len is {sequence_len}"
            fix = f"set sequence_len: {usable}; longer texts are cut at truncation_side"
            raise UserError(Problem(what, where, fix=fix))

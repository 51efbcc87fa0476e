"""Keys of `task_type: SEQ_CLS` that can't hold together, or stand without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ft.spec.dialect.contradictions import Contradiction
from ft.spec.dialect.method_rules import is_padded
from ft.spec.dialect.not_supported import asks_for_preferences
from ft.spec.sections.labels import ProblemType, Side

_OF_LABELS = ("problem_type", "id2label", "num_labels", "class_weights", "truncation_side")

_WORDS: dict[str, Any] = {"problem_type": ProblemType, "truncation_side": Side}
_DEFAULTS: tuple[Any, ...] = (None, [], {}, "right")


def _is_labeled(values: Mapping[str, Any]) -> bool:
    return values.get("task_type") == "SEQ_CLS"


def _entries(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    lists = [values.get(name) for name in ("datasets", "test_datasets")]
    entries = [entry for each in lists if isinstance(each, list) for entry in each]
    return [entry for entry in entries if isinstance(entry, dict)]


def _asks_for(value: Any, key: str) -> bool:
    """Whether a value asks for something; one that the key does not take is told by its type."""
    words = get_args(_WORDS[key]) if key in _WORDS else (value,)
    return value in words and value not in _DEFAULTS


def _types(values: Mapping[str, Any]) -> list[Any]:
    """`type:` of every data set."""
    return [entry.get("type") for entry in _entries(values)]


def _num_labels_differ(values: Mapping[str, Any]) -> bool:
    names, number = values.get("id2label"), values.get("num_labels")
    if not isinstance(names, list | dict) or not isinstance(number, int):
        return False
    return bool(names) and len(names) != number


LABEL_CONTRADICTIONS = (
    Contradiction(
        ("datasets", "task_type"),
        "type: classification lays out labels, and task_type is not SEQ_CLS",
        "set task_type: SEQ_CLS",
        lambda v: not _is_labeled(v) and "classification" in _types(v),
    ),
    Contradiction(
        ("task_type", "datasets"),
        "with task_type: SEQ_CLS every data set is type: classification",
        "set type: classification, with field: and field_label: where they are not text and label",
        lambda v: _is_labeled(v) and any(each != "classification" for each in _types(v)),
    ),
    Contradiction(
        _OF_LABELS,
        f"{', '.join(_OF_LABELS[:-1])} and {_OF_LABELS[-1]} belong to task_type: SEQ_CLS",
        "set task_type: SEQ_CLS, or remove it",
        lambda v: (
            not _is_labeled(v)
            and not asks_for_preferences(v)
            and any(_asks_for(v.get(key), key) for key in _OF_LABELS)
        ),
    ),
    Contradiction(
        ("sample_packing", "eval_sample_packing", "train_on_inputs"),
        "with task_type: SEQ_CLS a row is one text and one label: nothing to pack, no prompt",
        "remove it",
        lambda v: (
            _is_labeled(v)
            and any(
                v.get(key) is True
                for key in ("sample_packing", "eval_sample_packing", "train_on_inputs")
            )
        ),
    ),
    Contradiction(
        ("task_type", "rl", "reward_model", "process_reward_model"),
        "task_type: SEQ_CLS learns labels, and another key asks for preferences",
        "keep one",
        lambda v: _is_labeled(v) and asks_for_preferences(v),
    ),
    Contradiction(
        ("adapter", "task_type"),
        "this adapter puts vectors before or into the text, and a head is trained beside layers "
        "alone",
        "set adapter: lora, qlora, or another one of weights",
        lambda v: _is_labeled(v) and is_padded(v),
    ),
    Contradiction(
        ("num_labels", "id2label"),
        "num_labels is not the number of names in id2label",
        "remove num_labels",
        _num_labels_differ,
    ),
    Contradiction(
        ("class_weights", "problem_type"),
        "a regression has no classes to weigh",
        "remove class_weights",
        lambda v: v.get("class_weights") and v.get("problem_type") == "regression",
    ),
    Contradiction(
        ("streaming", "id2label"),
        "a stream's labels can't be looked up beforehand",
        "set problem_type, and id2label (or problem_type: regression)",
        lambda v: (
            _is_labeled(v)
            and v.get("streaming") is True
            and not (
                v.get("problem_type")
                and (v.get("id2label") or v.get("problem_type") == "regression")
            )
        ),
    ),
    Contradiction(
        ("class_weights", "streaming"),
        "class_weights: balanced counts the records beforehand, and a stream can't be counted",
        "give the weights",
        lambda v: v.get("streaming") is True and v.get("class_weights") == "balanced",
    ),
    Contradiction(
        ("metric_for_best_model", "load_best_model_at_end"),
        "metric_for_best_model chooses the best evaluation, and nothing asks for the best one",
        "set load_best_model_at_end: true, or early_stopping_patience",
        lambda v: (
            v.get("metric_for_best_model")
            and not v.get("load_best_model_at_end")
            and not v.get("early_stopping_patience")
        ),
    ),
    Contradiction(
        ("greater_is_better", "metric_for_best_model"),
        "less of a loss is better, and greater_is_better is true",
        "remove it, or name another metric_for_best_model",
        lambda v: (
            v.get("greater_is_better") is True
            and v.get("metric_for_best_model") in (None, "loss", "eval_loss")
        ),
    ),
    Contradiction(
        ("metric_for_best_model", "task_type"),
        "the best evaluation of a model that writes is that of the lowest held-out loss",
        "remove metric_for_best_model",
        lambda v: (
            not _is_labeled(v) and v.get("metric_for_best_model") not in (None, "loss", "eval_loss")
        ),
    ),
)

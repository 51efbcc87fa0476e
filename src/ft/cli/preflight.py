"""What can be checked before anything heavy is imported: files, strategies, a local base model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ft.data.sources import find_local
from ft.data.strategy import check_strategy
from ft.model.base_check import (
    check_adapter_folder,
    check_base,
    check_tokenizer_folder,
    is_local,
)
from ft.model.checkpoint_format import check_local_format
from ft.runtime import Problem, UserError
from ft.spec import LoadedSpec
from ft.spec.runspec import DatasetSpec
from ft.train.claim import located_spec


def check_inputs(
    loaded: LoadedSpec, *, needs_weights: bool = True, needs_data: bool = True
) -> None:
    """Looks for everything that the config names on this machine.

    Args:
        loaded: The config.
        needs_weights: The base model and an adapter to go on from must be there, not only a
            tokenizer.
        needs_data: Data sets and strategies must be there.

    Raises:
        UserError: with every fault found, each at the line or option that names it.
    """
    spec, folder = loaded.spec, loaded.path.parent
    model = located_spec(loaded).model
    if needs_weights:
        problems = _problems(loaded, ("base_model",), partial(check_base, model))
        check_format = partial(check_local_format, model, spec.adapter)
        problems = problems or _problems(loaded, ("base_model",), check_format)
    else:
        key = "tokenizer_config" if model.tokenizer_config else "base_model"
        problems = _problems(loaded, (key,), partial(check_tokenizer_folder, model))
    if needs_weights and spec.adapter.lora_model_dir is not None:
        check = partial(check_adapter_folder, spec.adapter.lora_model_dir)
        problems += _problems(loaded, ("lora_model_dir",), check)
    for name in ("datasets", "test_datasets") if needs_data else ():
        for i, entry in enumerate(getattr(spec.data, name)):
            problems += _problems(
                loaded, (name, i, "path"), partial(find_local, entry.path, folder)
            )
            problems += _problems(loaded, (name, i, "type"), _type_check(loaded, entry))
    if problems:
        raise UserError(*problems)


def _type_check(loaded: LoadedSpec, entry: DatasetSpec) -> Callable[[], None]:
    """What looks for the layout that a data set names."""
    objective = loaded.spec.preference.objective
    if objective is None:
        return partial(check_strategy, entry, loaded.path.parent)
    from ft.data.preference import check_preference

    return partial(check_preference, objective, entry)


def check_hub_names(loaded: LoadedSpec, *, needs_weights: bool = True) -> None:
    """Asks the hub once for a base and a tokenizer that are not on this machine.

    Args:
        loaded: The config.
        needs_weights: The base model must be there, not only a tokenizer.

    Raises:
        UserError: one of them is not there, may not be read, or is out of reach.
    """
    from ft.model.hub import CONFIG, TOKENIZER_CONFIG, require_on_hub

    model = located_spec(loaded).model
    asked = []
    if model.tokenizer_config:
        asked.append(("tokenizer_config", model.tokenizer_config, TOKENIZER_CONFIG))
    if needs_weights or not model.tokenizer_config:
        asked.append(("base_model", model.base_model, CONFIG))
    problems = []
    for key, name, file in asked:
        if not is_local(name):
            revision = model.revision_of_model if name == model.base_model else None
            check = partial(require_on_hub, name, file, role=key, revision=revision)
            problems += _problems(loaded, (key,), check)
    if problems:
        raise UserError(*problems)


def _problems(
    loaded: LoadedSpec, key_path: tuple[str | int, ...], check: Callable[[], object]
) -> list[Problem]:
    """What the check finds, placed in the YAML; a place that it names itself goes into the text."""
    try:
        check()
    except UserError as error:
        return [
            loaded.problem(
                key_path,
                f"{problem.where}: {problem.what}" if problem.where else problem.what,
                problem.fix,
            )
            for problem in error.problems
        ]
    except (OSError, ValueError) as error:  # a name that no file can have: too long, a NUL
        reason = getattr(error, "strerror", None) or str(error)
        return [loaded.problem(key_path, f"{key_path[-1]} can't be looked up: {reason}")]
    return []

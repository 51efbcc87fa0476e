"""What can be checked before anything heavy is imported: files, strategies, a local base model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ft.data.sources import find_local
from ft.data.strategy import check_strategy
from ft.model.base_check import check_adapter_folder, check_base
from ft.runtime import Problem, UserError
from ft.spec import LoadedSpec
from ft.train.claim import located_spec


def check_inputs(loaded: LoadedSpec) -> None:
    """Looks for everything that the config names on this machine.

    Raises:
        UserError: with every fault found, each at the line or option that names it.
    """
    spec, folder = loaded.spec, loaded.path.parent
    model = located_spec(loaded).model
    problems = _problems(loaded, ("base_model",), partial(check_base, model))
    if spec.adapter.lora_model_dir is not None:
        check = partial(check_adapter_folder, spec.adapter.lora_model_dir)
        problems += _problems(loaded, ("lora_model_dir",), check)
    for name in ("datasets", "test_datasets"):
        for i, entry in enumerate(getattr(spec.data, name)):
            problems += _problems(
                loaded, (name, i, "path"), partial(find_local, entry.path, folder)
            )
            problems += _problems(loaded, (name, i, "type"), partial(check_strategy, entry, folder))
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
    return []

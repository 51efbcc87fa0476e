"""The spec of the run that is measured: the config's, but for what would read or leave things."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ft.bench import Records
from ft.data.sources import find_local
from ft.model.tokenizer_identity import tokenizer_identity
from ft.runtime import UserError
from ft.spec import LoadedSpec
from ft.train.claim import located_spec


def settled(records: Records, loaded: LoadedSpec) -> Records:
    """Which records ``AT_HAND`` means for a config; the others mean themselves."""
    if records != Records.AT_HAND:
        return records
    sets = loaded.spec.data.datasets
    try:
        are_here = all(find_local(entry.path, loaded.path.parent) for entry in sets)
    except UserError:
        are_here = False
    has_tokenizer = tokenizer_identity(located_spec(loaded).model) is not None
    return Records.OWN if sets and are_here and has_tokenizer else Records.FULL


def of_random_weights(loaded: LoadedSpec, *, needs_tokenizer: bool = True) -> LoadedSpec:
    """The config with a base of random weights, and an adapter that begins anew.

    Args:
        loaded: The config.
        needs_tokenizer: False leaves out a tokenizer that is not the base's.
    """
    model: dict[str, Any] = {"reinit_weights": True}
    if not needs_tokenizer:
        model["tokenizer_config"] = None
    return _changed(loaded, {"model": model, "adapter": {"lora_model_dir": None}})


def throwaway(loaded: LoadedSpec, folder: Path) -> LoadedSpec:
    """The run that is measured: nothing is held out, and what it writes goes into ``folder``."""
    return _changed(
        of_random_weights(dataclasses.replace(loaded, spec=located_spec(loaded))),
        {
            "data": {
                "val_set_size": 0.0,
                "test_datasets": (),
                "dataset_prepared_path": str(folder / "tokens"),
            },
            "training": {
                "max_time": None,
                "loss_watchdog_threshold": None,
                "loss_watchdog_patience": None,
            },
            "evaluation": {"early_stopping_patience": None, "load_best_model_at_end": False},
            "output": {"output_dir": str(folder / "run")},
        },
    )


def _changed(loaded: LoadedSpec, changes: dict[str, dict[str, Any]]) -> LoadedSpec:
    """With some values of some sections replaced; these were checked, and are not checked again."""
    sections = {
        name: getattr(loaded.spec, name).model_copy(update=values)
        for name, values in changes.items()
    }
    return dataclasses.replace(loaded, spec=loaded.spec.model_copy(update=sections))

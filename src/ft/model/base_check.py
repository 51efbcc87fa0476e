"""What can be said about a model's or adapter's folder without loading it; imports no tensors.

A base model is a hub name or a local folder. This looks at the folder only: a hub name is believed
until it is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path

from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import ModelSpec

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "consolidated*.pth")


def is_local(name: str) -> bool:
    """Whether a base model's name is a folder here: it exists, or can be nothing else."""
    looks_local = name.startswith(("/", "./", "../", "~")) or name in (".", "..")
    return looks_local or name.count("/") > 1 or Path(name).expanduser().is_dir()


def check_base(spec: ModelSpec) -> None:
    """Looks whether a local base folder can be a model at all.

    Raises:
        UserError: the folder is missing, holds no config.json, no safetensors, pickled weights
            only, an adapter, or an index that points outside; or, with ``random_init_seed``, it is
            no folder here or holds weights.
    """
    begins_random = spec.random_init_seed is not None and not spec.reinit_weights
    if not is_local(spec.base_model) and not begins_random:
        return
    folder = Path(spec.base_model).expanduser()
    if problem := _find_problem(folder, begins_random=begins_random):
        raise UserError(problem)


def check_tokenizer_folder(spec: ModelSpec) -> None:
    """Looks whether a local tokenizer's folder is there; weights don't matter.

    Raises:
        UserError: there is no such folder.
    """
    name = spec.tokenizer_config or spec.base_model
    folder = Path(name).expanduser()
    if is_local(name) and not folder.is_dir():
        fix = "name a folder that exists, or a hub name"
        raise UserError(Problem("no such folder", f"tokenizer: {folder}", fix=fix))


def check_adapter_folder(path: str) -> None:
    """Looks whether a folder can be an adapter at all; adapters are read from this machine only.

    Raises:
        UserError: the folder is missing, or holds no adapter_config.json or no safetensors.
    """
    folder = Path(path).expanduser()
    if not (folder / ADAPTER_CONFIG).is_file():
        what = f"has no {ADAPTER_CONFIG}" if folder.is_dir() else "no such folder"
        raise UserError(Problem(what, str(folder), fix="name the folder of a trained adapter"))
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            Problem(
                f"has no {ADAPTER_WEIGHTS}; pickled adapters can run code and are never read",
                str(folder),
                fix="save the adapter with safetensors",
            )
        )


def _find_problem(folder: Path, *, begins_random: bool) -> Problem | None:
    where = f"base_model: {folder}"
    if not folder.is_dir():
        return Problem("no such folder", where, fix="name a folder that exists, or a hub name")
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            return Problem(
                "is an adapter, not a model",
                where,
                fix="put the adapter under lora_model_dir, and its base model here",
            )
        return Problem(
            "has no config.json, so it is no model", where, fix=_fix_of_no_config(folder)
        )
    if begins_random:
        return _random_problem(folder, where)
    return _weights_problem(folder, where)


def _random_problem(folder: Path, where: str) -> Problem | None:
    """Weights that are there would be passed over without a word."""
    if not any(folder.glob("*.safetensors")):
        return None
    return Problem(
        "holds weights, but random_init_seed asks for random ones",
        where,
        fix="remove random_init_seed, or name a folder of config.json and a tokenizer",
    )


def _fix_of_no_config(folder: Path) -> str:
    if any(folder.glob("*.gguf")):
        return "GGUF files are converted first, with transformers: from_pretrained(..., gguf_file=)"
    inner = next((path.parent for path in sorted(folder.glob("*/config.json"))), None)
    return (
        f"did you mean {inner}?"
        if inner
        else "a model's folder holds config.json and *.safetensors"
    )


def _weights_problem(folder: Path, where: str) -> Problem | None:
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            return Problem(
                "has pickled weights only, which can run code when they are read",
                where,
                fix="use the model's safetensors; most models have them on the hub",
            )
        return Problem(
            "has no weights: no *.safetensors",
            where,
            fix="copy the whole model folder, or begin with random weights: random_init_seed: 0",
        )
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return None
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        return Problem(f"is broken: {error}", str(index), fix="copy the model folder again")
    if outside := sorted(name for name in files if Path(name).name != name):
        return Problem(f"points outside its folder: {outside[0]}", str(index))
    if missing := sorted(name for name in files if not (folder / name).is_file()):
        return Problem(
            f"has {len(missing)} of {len(files)} weight files missing: {missing[0]} ...",
            where,
            fix="copy or download the whole model",
        )
    return None

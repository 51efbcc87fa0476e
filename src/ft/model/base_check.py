"""What can be said about a model's or adapter's folder without loading it; imports no tensors.

A base model is a hub name or a local folder. This looks at the folder only: a hub name is believed
until it is loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import ModelSpec

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_COPY_AGAIN = "copy or download the model again"

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
    problem = _find_problem(folder)
    if problem is None and not spec.reinit_weights:  # which reads none
        problem = _random_problem(folder) if begins_random else _weights_problem(folder)
    if problem:
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
    _ = read_adapter_config(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            Problem(
                f"has no {ADAPTER_WEIGHTS}; pickled adapters can run code and are never read",
                str(folder),
                fix="save the adapter with safetensors",
            )
        )


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a folder, as it stands there.

    Raises:
        UserError: it is damaged, or asks for a library's module to be imported by name.
    """
    file = folder / ADAPTER_CONFIG
    config = read_json_object(file, fix="copy the adapter again, or train it again")
    if not isinstance(config.get("peft_type"), str):
        what = "is damaged: it does not say which kind of adapter it is (peft_type)"
        raise UserError(Problem(what, str(file), fix="copy the adapter again, or train it again"))
    if config.get("megatron_config"):  # peft imports the module that megatron_core names
        fix = "take an adapter that was trained without Megatron"
        raise UserError(Problem("names code to import (megatron_core)", str(file), fix=fix))
    return config


def read_json_object(file: Path, *, fix: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        file: The file.
        fix: What mends it.

    Raises:
        UserError: it can't be read, is no JSON, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(Problem(f"can't be read: {error.strerror}", str(file), fix=fix)) from None
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f"{file}:{line}" if line else str(file)
        raise UserError(Problem(f"is damaged: {error}", where, fix=fix)) from None
    if not isinstance(content, dict):
        raise UserError(Problem("is damaged: it holds no JSON object", str(file), fix=fix))
    return content


def _find_problem(folder: Path) -> Problem | None:
    """What is wrong with the folder, whatever weights it holds."""
    where = f"base_model: {folder}"
    if not folder.is_dir():
        return Problem("no such folder", where, fix="name a folder that exists, or a hub name")
    if (folder / "config.json").is_file():
        try:
            config = read_json_object(folder / "config.json", fix=_COPY_AGAIN)
        except UserError as error:
            return error.problems[0]
        if kernel := _named_kernel(config):
            return Problem(
                f"config.json names code of a hub repository to run: {kernel}",
                where,
                fix="take it out of config.json; the YAML's attn_implementation chooses attention",
            )
    else:
        if (folder / ADAPTER_CONFIG).is_file():
            return Problem(
                "is an adapter, not a model",
                where,
                fix="put the adapter under lora_model_dir, and its base model here",
            )
        return Problem(
            "has no config.json, so it is no model", where, fix=_fix_of_no_config(folder)
        )
    return None


_CHOICES_OF_CODE = ("attn_implementation", "experts_implementation", "kernel_config")


def _named_kernel(config: Any) -> str:
    """What a model's config.json says of repositories whose code computes it; empty if nothing."""
    inner = (
        config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    )
    for key, value in config.items() if isinstance(config, dict) else ():
        is_choice = any(choice in key for choice in _CHOICES_OF_CODE)
        if is_choice and "/" in json.dumps(value):
            return f"{key}: {json.dumps(value)[:100]}"
    return next((found for value in inner if (found := _named_kernel(value))), "")


def _random_problem(folder: Path) -> Problem | None:
    """Weights that are there would be passed over without a word."""
    where = f"base_model: {folder}"
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


def _weights_problem(folder: Path) -> Problem | None:
    where = f"base_model: {folder}"
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
        files = set(read_json_object(index, fix=_COPY_AGAIN)["weight_map"].values())
        names = sorted(str(name) for name in files)
    except UserError as error:
        return error.problems[0]
    except (KeyError, AttributeError, TypeError) as error:
        return Problem(f"is damaged: {error!r}", str(index), fix=_COPY_AGAIN)
    if outside := [name for name in names if Path(name).name != name]:
        what = f"points outside its folder: {outside[0]}"
        return Problem(
            what, str(index), fix="a model's weights lie beside its index: take another copy"
        )
    if missing := [name for name in names if not (folder / name).is_file()]:
        return Problem(
            f"has {len(missing)} of {len(names)} weight files missing: {missing[0]} ...",
            where,
            fix="copy or download the whole model",
        )
    return None

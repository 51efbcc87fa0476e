"""The part of axolotl's Python interface that users' strategy files import.

While such a file is loaded, modules of these names stand in `sys.modules` (`installed()`):

    axolotl.prompters            AlpacaPrompter, PromptStyle, ...
    axolotl.prompt_tokenizers    InstructionPromptTokenizingStrategy, ...
    axolotl.prompt_strategies.*  `load` functions of the built-in layouts; classes to build on
    axolotl.utils.{dict,logging} DictDefault, get_logger

The classes here render text; tokens and masks are made in ft.data.tokenize, as for every layout.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ft.data.axolotl_shim import prompt_strategies, prompt_tokenizers, prompters
from ft.data.axolotl_shim.config import StrategyConfig, remove_none_values
from ft.data.axolotl_shim.prompt_strategies import LayoutStrategy
from ft.data.axolotl_shim.prompt_tokenizers import PairStrategy
from ft.data.axolotl_shim.record_set import RecordSet

__all__ = ["LayoutStrategy", "PairStrategy", "RecordSet", "StrategyConfig", "installed"]

_MODULES: dict[str, dict[str, Any]] = {
    "axolotl": {},
    "axolotl.utils": {},
    "axolotl.utils.dict": {"DictDefault": StrategyConfig, "remove_none_values": remove_none_values},
    "axolotl.utils.logging": {"get_logger": logging.getLogger},
    "axolotl.prompters": prompters.NAMES,
    "axolotl.prompt_tokenizers": prompt_tokenizers.NAMES,
    "axolotl.prompt_strategies": {},
    **{
        f"axolotl.prompt_strategies.{name}": names
        for name, names in prompt_strategies.MODULES.items()
    },
}


@contextmanager
def installed() -> Iterator[None]:
    """The modules stand in `sys.modules`; afterwards it is as it was, a real axolotl included."""
    hidden = {name: module for name, module in sys.modules.items() if _is_axolotl(name)}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(_build_modules())
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_axolotl(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _is_axolotl(name: str) -> bool:
    return name == "axolotl" or name.startswith("axolotl.")


def _build_modules() -> dict[str, ModuleType]:
    modules = {name: ModuleType(name, "ft's stand-in for axolotl") for name in _MODULES}
    for name, contents in _MODULES.items():
        modules[name].__dict__.update(contents)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
        if any(other.startswith(f"{name}.") for other in _MODULES) or not contents:
            modules[name].__path__ = []
    return modules

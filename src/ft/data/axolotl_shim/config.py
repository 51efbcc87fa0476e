"""What a strategy file's `load(tokenizer, cfg)` gets as its configuration."""

from __future__ import annotations

from typing import Any


class StrategyConfig(dict[str, Any]):
    """Keys by name or attribute, None where missing; axolotl calls it DictDefault."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __missing__(self, name: str) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of the keys."""
        return dict(self)


def remove_none_values(value: Any) -> Any:
    """The same object, list or value without its nulls, at any depth."""
    if isinstance(value, dict):
        return {key: remove_none_values(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [remove_none_values(each) for each in value]
    return value

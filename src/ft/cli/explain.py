"""Keys as `ft explain` tells them: one in full, a group as a list."""

from __future__ import annotations

from ft.spec.key_table import Key, find_keys, key_table

_STATE_IN_WORDS = {"no effect": "no effect here", "not supported": "not supported"}


def explain(name: str | None) -> list[str]:
    """What a key, a group of keys or a beginning means; without a name, every key that works.

    Raises:
        UserError: there is no such key.
    """
    if name is None:
        working = [key for key in key_table().values() if key.state == "works"]
        return [*_list_of(working), "", "a key in full: ft explain lora_r"]
    first, *others = find_keys(name)
    if not others:
        return _in_full(first, name)
    if all(key.name.startswith(f"{first.name}.") for key in others):
        return [*_in_full(first, name), "", "inside it:", *_list_of(others)]
    if len({key.name.rsplit(".", 1)[-1] for key in (first, *others)}) == 1:  # in several places
        return [line for key in (first, *others) for line in [*_in_full(key, name), ""]][:-1]
    return _list_of([first, *others])


def _in_full(key: Key, asked: str) -> list[str]:
    if key.state != "works":
        why = key.instead or key.sentence
        return [f"{key.name}: {_STATE_IN_WORDS[key.state]}", f"  {why}"]
    lines = [key.name, f"  {key.sentence}", "", f"  type:     {key.type}"]
    lines += [f"  values:   {', '.join(key.values)}"] if key.values else []
    lines += [f"  default:  {key.default_in_words}"]
    lines += [f"  unit:     {key.unit}"] if key.unit else []
    lines += [f"  section:  {key.section}"]
    lines += [f"  option:   --{_option(key.name)}"]
    lines += [f"  old name: {', '.join(key.old_names)}"] if key.old_names else []
    return lines


def _option(name: str) -> str:
    """``datasets.path`` as it is typed: ``datasets.0.path``."""
    first, _, rest = name.partition(".")
    typed = f"{first}.0.{rest}" if first == "datasets" and rest else name
    return typed.replace("_", "-")


def _list_of(keys: list[Key]) -> list[str]:
    width = max(len(key.name) for key in keys)
    return [f"{key.name:<{width}}  {_in_a_line(key)}" for key in keys]


def _in_a_line(key: Key) -> str:
    if key.state == "works":
        return f"{key.sentence} [{key.default_in_words}]"
    return f"({_STATE_IN_WORDS[key.state]}: {key.instead or key.sentence})"

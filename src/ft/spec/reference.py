"""The reference page of all keys: `python -m ft.spec.reference > docs/keys.md`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from ft.spec.key_table import Key, State, key_table

_SECTIONS = {
    "model": "What is loaded",
    "precision": "In which number formats it computes",
    "adapter": "What is added to the base",
    "data": "What it learns from",
    "training": "How it learns",
    "evaluation": "How it is measured",
    "output": "What is left behind",
    "trackers": "Where metrics are shown besides",
    "datasets": "One entry of `datasets` or `test_datasets`",
    "datasets.type": "`type` of a data set as a mapping",
    "special_tokens": "`special_tokens`",
}
_HEAD = """\
# Keys

Made by `python -m ft.spec.reference > docs/keys.md`; do not edit. `ft explain KEY` says the same.
A key without a value means its default. Every key is also an option: `--lora-r 16`.
"""


def reference_page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_working(), *_idle(), *_unsupported()])


def _working() -> Iterator[str]:
    for section, title in _SECTIONS.items():
        yield f"## {title}\n"
        yield "| key | what it does | type or values | default | unit | old names |"
        yield "|---|---|---|---|---|---|"
        for key in _keys_of("works", section):
            cells = (
                f"`{_short(key.name)}`",
                key.sentence,
                _type_cell(key),
                f"`{key.default_in_words}`",
                key.unit,
                ", ".join(f"`{_short(old)}`" for old in key.old_names),
            )
            yield _row(*cells)
        yield ""


def _idle() -> Iterator[str]:
    yield "## Accepted, without effect\n"
    yield from _table_of("no effect", "why", lambda key: key.sentence)


def _unsupported() -> Iterator[str]:
    yield "## Not supported\n"
    yield "An error, unless the value asks for nothing (empty, false, 0).\n"
    yield from _table_of("not supported", "instead", lambda key: key.instead)


def _table_of(state: State, heading: str, text_of: Callable[[Key], str]) -> Iterator[str]:
    yield f"| key | {heading} |"
    yield "|---|---|"
    for key in _keys_of(state):
        yield _row(f"`{key.name}`", text_of(key))
    yield ""


def _keys_of(state: State, section: str | None = None) -> list[Key]:
    return [
        key for key in key_table().values() if key.state == state and section in (None, key.section)
    ]


def _type_cell(key: Key) -> str:
    values = ", ".join(f"`{value}`" for value in key.values)
    return key.type.replace("one of the values", values) if values else key.type


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(reference_page())

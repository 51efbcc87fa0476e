"""The built-in layouts, each a few lines, registered in `LAYOUTS`.

They render what axolotl's layouts of the same names train on, byte for byte. One file a family:

    pair        a prompt and its response: what most layouts are made of
    instruct    the alpaca family, in its styles
    answers     everything else that asks once and is answered once
    mapping     `type:` as a mapping
    turns       conversations that are tokenized turn by turn
    llama2      conversations in the one string that Llama 2 was trained on
    raw         texts, labeled texts and tokens as they are
"""

from __future__ import annotations

from ft.data.chat import CHAT_TYPE, chat_layout
from ft.data.classification.layout import CLASSIFICATION_TYPE, classification_layout
from ft.data.layouts import answers, instruct, llama2, raw, turns
from ft.data.layouts.mapping import check_mapping, mapping_layout
from ft.data.layouts.pair import BuiltIn
from ft.data.layouts.raw import COMPLETION_REACH, PretokenizedLayout

__all__ = [
    "COMPLETION_REACH",
    "LAYOUTS",
    "BuiltIn",
    "PretokenizedLayout",
    "built_in",
    "check_mapping",
    "layout_names",
    "mapping_layout",
]

LAYOUTS: dict[str, BuiltIn] = {
    **instruct.LAYOUTS,
    **answers.LAYOUTS,
    **turns.LAYOUTS,
    **llama2.LAYOUTS,
    **raw.LAYOUTS,
    CHAT_TYPE: BuiltIn(chat_layout),
    CLASSIFICATION_TYPE: BuiltIn(classification_layout),
}
"""Name -> layout; `NAME.load` is the same as `NAME`, `NAME:STYLE` is NAME in another style."""


def built_in(type_name: str) -> BuiltIn | None:
    """The layout of that name, if there is one."""
    return LAYOUTS.get(type_name) or LAYOUTS.get(type_name.removesuffix(".load"))


def layout_names() -> list[str]:
    """The names of all layouts, without those that differ in style only."""
    return [name for name in LAYOUTS if ":" not in name]

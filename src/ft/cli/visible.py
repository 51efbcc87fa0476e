"""Records are strangers' text: what of it can be shown as it stands, and how the rest is shown."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_JOINERS = "\u200c\u200d"
"""Invisible, but letters and pictures are made with them."""


@dataclass(frozen=True)
class Marks:
    """The characters that a terminal, or a page, can draw.

    Attributes:
        opening: In front of what is trained, where color can't tell.
        closing: Behind it.
        newline: Shows a line break, in front of it.
        space: Shows a space where it would not be seen.
        tab: Shows a tab.
        ellipsis: Stands for what is left out.
        dash: Between the ends of a range.
        dot: Between parts of a line.
        bar: A full cell of a chart, and an eighth up to seven eighths.
        rail: In front of a record's lines.
        rule: A heading's line.
    """

    opening: str = "\u27e6"
    closing: str = "\u27e7"
    newline: str = "\u21b5"
    space: str = "\u00b7"
    tab: str = "\u2192"
    ellipsis: str = "\u2026"
    dash: str = "\u2013"
    dot: str = "\u00b7"
    bar: str = "\u2588\u258f\u258e\u258d\u258c\u258b\u258a\u2589"
    rail: str = "\u2502"
    rule: str = "\u2500"

    def all(self) -> str:
        """Every character of them."""
        return "".join(vars(self).values())


UNICODE = Marks()
ASCII = Marks("[[", "]]", "$", "_", "\\t", "...", "-", "|", "#", "|", "-")


def marks_for(encoding: str) -> Marks:
    """The marks that an output of this encoding can show."""
    try:
        UNICODE.all().encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def visible(text: str, marks: Marks) -> str:
    """The text with white space that can be seen, and nothing that could steer a terminal.

    Line breaks stay, with a mark in front. A space is marked where it stands at the end of a line
    or of the text, or at the start of the text.
    """
    lines = text.split("\n")
    shown = [_mark_trailing(line, marks) for line in lines]
    if text.startswith(" ") and shown[0].startswith(" "):
        shown[0] = marks.space + shown[0][1:]
    safe = ["".join(_safe(character, marks) for character in line) for line in shown]
    return f"{marks.newline}\n".join(safe)


def one_line(text: str, marks: Marks, width: int | None = None) -> str:
    """The text on one line, shortened to `width` characters."""
    flat = "".join(_safe(character, marks) for character in text.replace("\n", "\\n"))
    if width is None or len(flat) <= width:
        return flat
    return flat[: max(width - len(marks.ellipsis), 0)] + marks.ellipsis


def harmless(text: str, marks: Marks) -> str:
    """The text with its lines, tabs and spaces, and nothing that could steer a terminal."""
    return "".join(c if c in "\n\t" else _safe(c, marks) for c in text)


def encodable(text: str, encoding: str) -> str:
    """The text, with escapes for what the output's encoding lacks."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _mark_trailing(line: str, marks: Marks) -> str:
    bare = line.rstrip(" ")
    return bare + marks.space * (len(line) - len(bare))


def _safe(character: str, marks: Marks) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    if character == "\t":
        return marks.tab
    category = unicodedata.category(character)
    if category in ("Zs", "Co", "Cn"):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"<U+{code:04X}>"

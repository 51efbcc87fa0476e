"""Graphics cards that a plan can be made for without having one.

Memory as CUDA reports it, which is less than the name says; rates are those of the data sheets for
dense bf16 products with fp32 accumulation (fp16 where a card has no bf16), without sparsity.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ft.runtime.errors import Problem, UserError
from ft.spec.nearest import nearest

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """One card."""

    name: str
    """As it is asked for: ``a100-40gb``."""
    memory_bytes: int
    flops_per_s: float
    """Dense half-precision products, by its data sheet."""
    bytes_per_s: float
    """Of its memory, by its data sheet."""
    capability: tuple[int, int]
    """CUDA compute capability."""
    pattern: str
    """What its driver's name holds: ``NVIDIA A100-SXM4-40GB``."""


def _card(
    name: str, gib: float, tflops: float, gb_per_s: float, sm: tuple[int, int], pattern: str
) -> Card:
    return Card(name, int(gib * GIB), tflops * 1e12, gb_per_s * 1e9, sm, pattern)


CARDS: tuple[Card, ...] = (
    _card("t4", 14.6, 65, 320, (7, 5), r"T4\b"),
    _card("v100-16gb", 15.8, 125, 900, (7, 0), r"V100.*16GB"),
    _card("v100-32gb", 31.7, 125, 900, (7, 0), r"V100.*32GB"),
    _card("rtx-3090", 23.6, 71, 936, (8, 6), r"RTX 3090"),
    _card("rtx-4090", 23.6, 165, 1008, (8, 9), r"RTX 4090"),
    _card("rtx-5090", 31.4, 210, 1792, (12, 0), r"RTX 5090"),
    _card("a10", 22.0, 125, 600, (8, 6), r"A10\b"),
    _card("a10g", 22.0, 70, 600, (8, 6), r"A10G"),
    _card("l4", 22.0, 121, 300, (8, 9), r"L4\b"),
    _card("a40", 44.4, 150, 696, (8, 6), r"A40\b"),
    _card("rtx-a6000", 47.4, 155, 768, (8, 6), r"RTX A6000"),
    _card("rtx-6000-ada", 47.4, 182, 960, (8, 9), r"RTX 6000 Ada"),
    _card("l40s", 44.4, 181, 864, (8, 9), r"L40S"),
    _card("a100-40gb", 39.4, 312, 1555, (8, 0), r"A100.*40GB"),
    _card("a100-80gb", 79.2, 312, 2039, (8, 0), r"A100.*80GB"),
    _card("h100-pcie", 79.2, 756, 2000, (9, 0), r"H100 PCIe"),
    _card("h100-80gb", 79.2, 989, 3350, (9, 0), r"H100 80GB"),
    _card("h200", 139.8, 989, 4800, (9, 0), r"H200"),
    _card("b200", 178.4, 2250, 8000, (10, 0), r"B200"),
)

COMMON = ("rtx-4090", "a100-40gb", "rtx-a6000", "h100-80gb", "h200")
"""One of each usual size: 24, 40, 48, 80, 141 GB."""


def find_card(name: str) -> Card:
    """The card of a name, however it is written: ``A100 40GB``, ``rtx4090``.

    Raises:
        UserError: there is none; near names are listed.
    """
    wanted = _plain(name)
    exact = [card for card in CARDS if _plain(card.name) == wanted]
    begun = [card for card in CARDS if _plain(card.name).startswith(wanted)] if wanted else []
    if len(exact or begun) == 1:
        return (exact or begun)[0]
    names = [card.name for card in CARDS]
    if begun:
        what, near = f"--gpu {name}: there are several", [card.name for card in begun]
    else:
        what, first = f"--gpu: no card named {name!r} is known", nearest(wanted, names)
        near = _like(wanted, names, first) or names
    raise UserError(Problem(what, fix=f"one of {', '.join(near)}"))


def _like(wanted: str, names: list[str], first: str | None) -> list[str]:
    """The likeliest, and the others of its family."""
    if first is None:
        kind = re.match(r"[a-z]*\d+", wanted)
        return [name for name in names if kind and kind[0] in _plain(name)]
    family = first.partition("-")[0]
    return [first, *(name for name in names if name != first and name.startswith(family))]


def card_of(driver_name: str) -> Card | None:
    """The card that a driver's name means, or its own name; None if it is unknown.

    ``NVIDIA H100 80GB HBM3`` and ``h100-80gb`` are the same.
    """
    return next(
        (c for c in CARDS if c.name == driver_name or re.search(c.pattern, driver_name)), None
    )


def _plain(name: str) -> str:
    plain = re.sub(r"nvidia|geforce|\btesla\b", "", name.casefold())
    return re.sub(r"[\s_-]+", "", plain)

"""How fast a config runs here, and how fast this device would let it: `ft bench`.

`measure.measure` runs it; `record.record_of` makes a table of what came. Both load torch.
"""

from enum import StrEnum


class Records(StrEnum):
    """What goes through the model while it is measured."""

    AT_HAND = "at-hand"
    """The config's own where data and tokenizer are on this machine, else ``FULL``."""
    OWN = "own"
    FULL = "full"
    SHORT = "short"


__all__ = ["Records"]

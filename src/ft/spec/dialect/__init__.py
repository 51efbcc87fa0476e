"""What the keys of the dialect mean to `ft` today.

Every key is in exactly one state:
    works          a field of ``RunSpec`` (runspec), under its own name or an old one (renamed.py)
    no effect      accepted, said once: it changes no result here (no_effect.py)
    not supported  an error that says what to use instead (not_supported.py); or typed, so that
                   `ft preview` reads it, and an error everywhere else (PREVIEWED)
Any other key is unknown, and an error. Null means the default, and so does "off" for an unsupported
key. Keys that can't hold together are in contradictions.py, those of a method in method_rules.py.
"""

from ft.spec.dialect import contradictions
from ft.spec.dialect.contradictions import Contradiction
from ft.spec.dialect.label_contradictions import LABEL_CONTRADICTIONS
from ft.spec.dialect.method_rules import METHOD_RULES
from ft.spec.dialect.no_effect import NO_EFFECT
from ft.spec.dialect.not_supported import (
    NOT_SUPPORTED,
    NOT_SUPPORTED_IN_DATASETS,
    OF_PREFERENCES,
    OFF,
    PREVIEWED,
    asks_for_preferences,
    is_off,
)
from ft.spec.dialect.renamed import MEANINGS, RENAMED, RENAMED_IN_DATASETS, RIVALS, Rename

CONTRADICTIONS = (*contradictions.CONTRADICTIONS, *METHOD_RULES, *LABEL_CONTRADICTIONS)

__all__ = [
    "CONTRADICTIONS",
    "MEANINGS",
    "NOT_SUPPORTED",
    "NOT_SUPPORTED_IN_DATASETS",
    "NO_EFFECT",
    "OFF",
    "OF_PREFERENCES",
    "PREVIEWED",
    "RENAMED",
    "RENAMED_IN_DATASETS",
    "RIVALS",
    "Contradiction",
    "Rename",
    "asks_for_preferences",
    "is_off",
]

"""Records of people's preferences -> prompts and answers -> one row of tokens an answer.

record --layout--> Preference | Judged | Comparison | Steps --tokenization--> {part: Tokens}
                                                            `-> what `ft preview` shows and dumps
"""

from ft.data.preference.preview import preview_preferences
from ft.data.preference.reading import dump_preferences
from ft.data.preference.records import (
    Comparison,
    Judged,
    Preference,
    PreferenceRecord,
    Steps,
)
from ft.data.preference.strategy import (
    OBJECTIVES,
    PreferenceStrategy,
    check_preference,
    preference_strategy,
)

__all__ = [
    "OBJECTIVES",
    "Comparison",
    "Judged",
    "Preference",
    "PreferenceRecord",
    "PreferenceStrategy",
    "Steps",
    "check_preference",
    "dump_preferences",
    "preference_strategy",
    "preview_preferences",
]

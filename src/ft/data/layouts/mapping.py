"""`type:` as a mapping: a layout that the YAML itself describes.

A format is the prompt, behind which the answer and an end token follow. It may also be all of the
text, with `{output}` where the answer stands: what is behind that is trained with the answer, and
an end token that was written there by hand is the one end token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ft.data.formats import check_format
from ft.data.layout import (
    Fields,
    LayoutFields,
    StrategyOptions,
    optional_text_field,
    optional_written_field,
    text_field,
    written_field,
)
from ft.data.layouts.pair import PairLayout
from ft.data.styles import PromptStyle
from ft.spec.runspec import MappingLayout

_SLOT = re.compile(r"(?<!\{)\{output\}(?!\})")
"""Where the answer stands in a format."""


@dataclass(frozen=True, slots=True)
class SplitFormat:
    """A format around the answer's slot; without a slot, all of it is in front of the answer."""

    prompt: str
    behind: str = ""

    @classmethod
    def of(cls, text: str, end_token: str | None) -> SplitFormat:
        """A format's parts; white space behind an end token that was written by hand is left out.

        Args:
            text: The format.
            end_token: The tokenizer's.
        """
        match = _SLOT.search(text)
        if match is None:
            return cls(text)
        behind = text[match.end() :].format()
        if end_token and behind.rstrip().endswith(end_token):
            behind = behind.rstrip()
        return cls(text[: match.start()], behind)


def mapping_layout(
    layout: MappingLayout, options: StrategyOptions, end_token: str | None = None
) -> PairLayout:
    """The layout that `type:` as a mapping describes.

    Args:
        layout: The mapping.
        options: The keys beside `datasets:`.
        end_token: The tokenizer's.
    """
    whole = SplitFormat.of(layout.format, end_token)
    without_input = SplitFormat.of(layout.no_input_format, end_token)
    style = PromptStyle(layout.system_format, whole.prompt, without_input.prompt)

    def prompt(record: Fields) -> str:
        system = optional_written_field(record, layout.field_system)
        if layout.field_system not in record:
            system = layout.system_prompt
        return style.render(
            system,
            written_field(record, layout.field_instruction),
            optional_written_field(record, layout.field_input),
        )

    def response(record: Fields) -> str:
        # Where the prompt is trained, a record without an answer has something to teach.
        read = optional_text_field if options.train_on_inputs else text_field
        has_input = optional_written_field(record, layout.field_input)
        return read(record, layout.field_output) + (whole if has_input else without_input).behind

    fields = LayoutFields(
        prompt=(layout.field_instruction,),
        response=(layout.field_output,),
        optional=(layout.field_input, layout.field_system),
        default=layout.field_instruction,
    )
    return PairLayout(fields, prompt, response, options.train_on_inputs, options.sequence_len)


def check_mapping(layout: MappingLayout) -> None:
    """Finds formats that can't be filled.

    Raises:
        UserError: A format has a placeholder that nothing fills, or one behind the answer.
    """
    allowed = {
        "system_format": {"system"},
        "format": {"instruction", "input", "output"},
        "no_input_format": {"instruction", "output"},
    }
    for key, names in allowed.items():
        text = getattr(layout, key)
        check_format(key, text, names)
        if match := _SLOT.search(text):
            check_format(f"{key}, behind {{output}}", text[match.end() :], ())


def note_on_end_token(layout: MappingLayout, end_token: str | None) -> str | None:
    """What to say of an end token that was written in front of the answer; None if there is none.

    Args:
        layout: The mapping.
        end_token: The tokenizer's.
    """
    if not end_token:
        return None
    for key in ("format", "no_input_format"):
        prompt = SplitFormat.of(getattr(layout, key), end_token).prompt
        if prompt.rstrip().endswith(end_token):
            return (
                f"{key} puts the end token {end_token!r} in front of the answer, untrained; one "
                "stands behind every answer by itself: take it out, or write {output} before it"
            )
    return None

"""`type:` as a mapping: a layout that the YAML itself describes."""

from __future__ import annotations

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


def mapping_layout(layout: MappingLayout, options: StrategyOptions) -> PairLayout:
    """The layout that `type:` as a mapping describes."""
    style = PromptStyle(layout.system_format, layout.format, layout.no_input_format)

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
        return read(record, layout.field_output)

    fields = LayoutFields(
        prompt=(layout.field_instruction,),
        response=(layout.field_output,),
        optional=(layout.field_input, layout.field_system),
        default=layout.field_instruction,
    )
    return PairLayout(fields, prompt, response, options.train_on_inputs, options.sequence_len)


def check_mapping(layout: MappingLayout) -> None:
    """Raises a UserError if a format has a placeholder that nothing fills."""
    allowed = {
        "system_format": {"system"},
        "format": {"instruction", "input"},
        "no_input_format": {"instruction"},
    }
    for key, names in allowed.items():
        check_format(key, getattr(layout, key), names)

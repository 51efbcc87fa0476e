"""What every section is, and the kinds of values that several of them have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ft.spec.chat_templates import checked_chat_template
from ft.spec.duration import checked_duration

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Names = tuple[str, ...]


def _whole_from_one_up(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("a whole number of steps, or a share below 1")
    return value


Interval = Annotated[float, Field(gt=0), AfterValidator(_whole_from_one_up)]
"""Every N steps; below 1: a share of all steps."""

ChatTemplateName = Annotated[str, AfterValidator(checked_chat_template)]

Duration = Annotated[str, BeforeValidator(checked_duration)]
"""2h, 90m, 1h30m, 45s."""

WarmUp = Annotated[float, Field(ge=0), AfterValidator(_whole_from_one_up)]
"""Steps; below 1: a share of all steps."""

Arguments = dict[str, bool | int | float | str]
"""Handed on by name."""


class Section(BaseModel):
    """A frozen group of keys; an unknown key is an error, a wrong type too ("16" is no count)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

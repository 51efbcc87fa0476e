"""What asking for an answer and asking for a label share: the layout, and the model in its form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any

from ft.data.prompt import PromptLayout
from ft.model import LoadedModel
from ft.runtime import Problem, UserError


@dataclass(frozen=True)
class AskedModel:
    """A loaded model and the layout that it was trained with."""

    loaded: LoadedModel
    layout: PromptLayout
    _: KW_ONLY
    is_base: bool = False
    """Ask the base below the adapter."""

    def prompt(self, fields: Mapping[str, Any], *, text: str | None = None) -> list[int]:
        """Token ids of a question in the run's layout.

        Args:
            fields: Fields of the record, by name.
            text: Fills the layout's instruction, question or text.

        Raises:
            UserError: a field is missing; says which, and how to give it.
        """
        record = dict(fields)
        if text is not None:
            if self.layout.default_field is None:
                raise UserError(Problem("this layout has no field for --prompt", fix="use --raw"))
            if self.layout.default_field in record:
                what = f"the {self.layout.default_field} is given twice"
                raise UserError(Problem(what, fix="by --prompt, or by --field or --record"))
            record[self.layout.default_field] = text
        return self.layout.encode_prompt(record, self.loaded.tokenizer.tokenizer)

    @contextmanager
    def asked(self) -> Iterator[Any]:
        """The model in the form that is asked, ready for forward passes. Yields it."""
        base: AbstractContextManager[Any] = (
            self.loaded.without_adapter() if self.is_base else nullcontext()
        )
        with self.loaded.inference() as model, base:
            yield model

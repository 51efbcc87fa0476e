"""What a method is asked for: a model, the keys, and what it may need to know beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ft.spec.runspec import AdapterSpec


@dataclass(frozen=True)
class Request:
    """One adapter to make."""

    model: Any
    """The base."""
    spec: AdapterSpec
    tokenizer: str
    """Where the base's tokenizer is: a hub name or a folder."""
    has_new_tokens: bool
    """Whether the embeddings have rows that were never trained."""


class Method(Protocol):
    """One way to tune."""

    def config(self, request: Request) -> tuple[Any, list[str]]:
        """Peft's config for it, and notes for the user.

        Raises:
            UserError: the model does not have what the keys name.
        """
        ...

    def begin(self, peft_model: Any, request: Request, load_plain: Callable[[], Any]) -> None:
        """Sets the first weights where peft's own are not what the keys ask for.

        Args:
            peft_model: With the adapter on it.
            request: What was asked for.
            load_plain: Loads the base in plain weights on the host, a second time.
        """
        ...

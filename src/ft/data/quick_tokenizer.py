"""The model's tokenizer, called without what nobody here reads.

transformers works out masks, offsets and special-token lists of every text, and looks its special
ids up anew each time; for short records that costs more than the tokens. `quick` gives an object
that stands for the tokenizer: plain calls go to the backend directly, everything else to the
tokenizer itself. The ids are the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = {"add_special_tokens", "return_attention_mask", "verbose"}
"""Options of a call that asks for ids alone."""

_ENCODERS = ("__call__", "_encode_plus", "_call_one", "_batch_encode_plus")
"""Where a class of tokenizers could do more than its backend does."""


def quick(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """What stands for the tokenizer; the tokenizer itself where its class has ways of its own."""
    from transformers import PreTrainedTokenizerFast

    is_usual = isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(type(tokenizer), name, None) is getattr(PreTrainedTokenizerFast, name, None)
        for name in _ENCODERS
    )
    if not is_usual:
        return tokenizer
    return cast("PreTrainedTokenizerBase", _QuickTokenizer(tokenizer))


class _QuickTokenizer:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self.eos_token_id = tokenizer.eos_token_id
        self.bos_token_id = tokenizer.bos_token_id
        self.truncation_side = tokenizer.truncation_side
        self.is_fast = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: Any, **options: Any) -> Any:
        if not isinstance(text, list) or options.keys() - _PLAIN:
            return self._tokenizer(text, **options)
        backend = self._backend
        backend.no_truncation()  # a call of a user's strategy may have left some
        backend.no_padding()
        backend.encode_special_tokens = self._tokenizer.split_special_tokens
        encoded = backend.encode_batch_fast(
            text, add_special_tokens=options.get("add_special_tokens", True)
        )
        return {"input_ids": [each.ids for each in encoded]}

"""A tokenizer for measurements without one: words of no meaning, as many as the model has rows."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ft.model.tokenizer import LoadedTokenizer

_SPECIAL = ("<unk>", "<s>", "</s>")


def stand_in_tokenizer(vocab_size: int) -> LoadedTokenizer:
    """A tokenizer of ``vocab_size`` tokens, special ones among them.

    Args:
        vocab_size: The base's; it is then given no new rows.
    """
    words = [*_SPECIAL, *(f"w{i}" for i in range(len(_SPECIAL), vocab_size))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    )
    return LoadedTokenizer(fast, (), ("a tokenizer of no meaning: the model's own is not here",))

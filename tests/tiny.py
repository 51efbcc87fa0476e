"""Tiny real models and tokenizers, made from nothing in a second, offline.

Three tokenizer families, because they differ where it hurts:
    llama    like Llama-2: byte-fallback BPE, a leading-space piece, BOS in front, no pad token
    chatml   like SmolLM2: byte-level BPE, no BOS, a chat template, pad == eos == <|im_end|>
    gpt2     like GPT-2: byte-level BPE, no BOS, no pad, no template
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RobertaConfig,
    RobertaModel,
)

CORPUS = [
    "CREATE TABLE head (name VARCHAR, age INTEGER, born_state VARCHAR)",
    "SELECT COUNT(*) FROM head WHERE age > 56",
    "SELECT MAX(field_goals) FROM table_19722233_5 WHERE assists < 5",
    "How many heads of the departments are older than 56 ?",
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{x}\n\n### Response:\n",
    "SYSTEM: Use the following contextual information to concisely answer the question.\n\n"
    "USER: article\n===\nquestion\nASSISTANT: Context: Question: Answer:",
    "The capital of France is Paris. What is the largest city? You are a helpful assistant.",
]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
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
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *byte_tokens], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _byte_level(special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(["<|endoftext|>"]),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
    )


TOKENIZERS = {"llama": llama_tokenizer, "chatml": chatml_tokenizer, "gpt2": gpt2_tokenizer}


def save_tiny_llama(folder: Path, family: str = "chatml", *, tie: bool = False) -> Path:
    """A 2-layer, 64-wide Llama with grouped-query attention, and its tokenizer, as a folder."""
    tokenizer = TOKENIZERS[family]()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """Like BERT's: lower case, [CLS] and [SEP] around, no end token.

    The vocabulary is every word of the corpus and every letter: the library's trainer breaks ties
    in another way each time.
    """
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in CORPUS]
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    letters = {*string.ascii_lowercase, *string.digits, *string.punctuation}
    pieces = [*special.values(), *sorted(letters | words), *(f"##{x}" for x in sorted(letters))]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    roles = {f"{role}_token": token for role, token in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def tiny_encoder(family: str = "distilbert", *, vocab_size: int = 400):
    """The body of a 2-layer, 32-wide encoder without dropout: distilbert, bert or roberta."""
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "pad_token_id": 0, "max_position_embeddings": 64}
    if family == "distilbert":
        sizes |= {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
        sizes |= {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
        return DistilBertModel(DistilBertConfig(**sizes))
    sizes |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    kind = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}[family]
    return kind[1](kind[0](**sizes, num_hidden_layers=2))


def save_tiny_encoder(folder: Path, family: str = "distilbert") -> Path:
    """`tiny_encoder` and a tokenizer, as a folder; no head."""
    tokenizer = wordpiece_tokenizer()
    tiny_encoder(family, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_mixture() -> Qwen3MoeForCausalLM:
    """A 2-layer, 64-wide Qwen3 of 4 experts, 2 of them for each token."""
    torch.manual_seed(0)
    tokenizer = chatml_tokenizer()
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3MoeForCausalLM(config)


def save_tiny_mixture(folder: Path) -> Path:
    """`tiny_mixture` and its tokenizer, as a folder."""
    tiny_mixture().save_pretrained(folder)
    chatml_tokenizer().save_pretrained(folder)
    return folder

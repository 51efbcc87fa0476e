from __future__ import annotations

import pytest

import tiny
from ft.model import load_tokenizer
from ft.runtime.errors import UserError
from ft.spec.runspec import ModelSpec, SpecialTokens


def load(folder, tokens=(), **special):
    spec = ModelSpec(base_model=str(folder), tokens=tokens, special_tokens=SpecialTokens(**special))
    return load_tokenizer(spec)


@pytest.mark.parametrize(
    ("family", "pad", "note"),
    [
        ("llama", "<unk>", "no pad token: padding with the unk token '<unk>'"),
        ("chatml", "<|im_end|>", None),
        ("gpt2", "<|endoftext|>", "no pad token: padding with the eos token '<|endoftext|>'"),
    ],
)
def test_a_missing_pad_token_is_solved_in_a_stated_way(tiny_llamas, family, pad, note):
    loaded = load(tiny_llamas[family])
    assert loaded.tokenizer.pad_token == pad
    assert loaded.new_token_ids == ()
    assert [n.split(";")[0] for n in loaded.notes] == ([note] if note else [])


@pytest.mark.parametrize("family", tiny.TOKENIZERS)
def test_a_pad_token_of_the_yaml_wins(tiny_llamas, family):
    size = len(load(tiny_llamas[family]).tokenizer)
    loaded = load(tiny_llamas[family], pad_token="<pad>")
    assert loaded.tokenizer.pad_token == "<pad>"
    assert loaded.new_token_ids == (size,)
    assert loaded.notes == ("new tokens, whose embeddings are trained: '<pad>'",)


def test_tokens_that_exist_are_reused(tiny_llamas):
    loaded = load(
        tiny_llamas["llama"], bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    assert loaded.new_token_ids == ()
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == 2


def test_new_tokens_are_one_id_each(tiny_llama):
    loaded = load(tiny_llama, tokens=("<sql>",), additional_special_tokens=("<|tool|>",))
    assert len(loaded.new_token_ids) == 2
    assert sorted(loaded.tokenizer("<sql><|tool|>")["input_ids"]) == list(loaded.new_token_ids)


def test_a_tokenizer_without_an_end_token_is_refused_with_the_fix(tmp_path):
    tokenizer = tiny.gpt2_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end token") as error:
        load(tmp_path)
    assert "eos_token: </s>" in str(error.value)
    assert load(tmp_path, eos_token="<|endoftext|>").tokenizer.eos_token_id == 0


def test_the_tokenizer_may_come_from_elsewhere(tiny_llamas, tmp_path):
    spec = ModelSpec(base_model=str(tmp_path), tokenizer_config=str(tiny_llamas["gpt2"]))
    assert load_tokenizer(spec).tokenizer.eos_token == "<|endoftext|>"
    with pytest.raises(UserError, match="tokenizer_config"):
        load_tokenizer(ModelSpec(base_model=str(tmp_path), tokenizer_config="./nowhere"))

"""Awkward tokenizers: each is made to work by a choice that is said, or refused with the fix."""

import json

import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM

import runs
import tiny
from ft.data import prepare_data
from ft.model import load_tokenizer
from ft.model.tokenizer import LoadedTokenizer
from ft.runtime import UserError
from ft.spec import DataSpec, ModelSpec


def saved(folder, family="chatml", change=lambda tokenizer: None):
    tokenizer = tiny.TOKENIZERS[family]()
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder, **keys) -> LoadedTokenizer:
    return load_tokenizer(ModelSpec.model_validate({"base_model": str(folder), **keys}))


def last_label(folder, tokenizer, **keys):
    """What is trained last, and all ids."""
    record = {"question": "How many?", "context": "t", "answer": "SELECT 1", "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}  # fmt: skip
    (folder / "d.jsonl").write_text(json.dumps(record) + "\n")
    entry = {"path": str(folder / "d.jsonl"), "type": keys.pop("type", "context_qa.load_v2")}
    spec = DataSpec.model_validate_json(
        json.dumps({"datasets": [entry], "sequence_len": 128, **keys})
    )
    row = prepare_data(spec, tokenizer=tokenizer, seed=0, base_dir=folder).train[0]
    return int(row.labels[-1]), row.input_ids.tolist()


def test_no_end_token_is_refused_with_the_fix(tmp_path):
    folder = saved(tmp_path, change=lambda t: setattr(t, "eos_token", None))
    with pytest.raises(UserError, match="no end token") as caught:
        loaded(folder)
    assert "special_tokens:" in caught.value.problems[0].fix
    assert (
        loaded(folder, special_tokens={"eos_token": "<|im_end|>"}).tokenizer.eos_token_id
        is not None
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_pad_token_is_a_choice_that_is_said(tmp_path, family):
    found = loaded(saved(tmp_path, family))
    assert found.tokenizer.pad_token_id is not None
    assert "no pad token" in found.notes[0]


@pytest.mark.parametrize("family", ["chatml", "gpt2", "llama"])
def test_the_end_is_trained_whether_pad_is_the_end_token_or_not(tmp_path, family):
    tokenizer = loaded(saved(tmp_path, family)).tokenizer
    assert last_label(tmp_path, tokenizer)[0] == tokenizer.eos_token_id


def test_no_unknown_token(tmp_path):
    def change(tokenizer):
        tokenizer.unk_token = tokenizer.pad_token = None

    found = loaded(saved(tmp_path, change=change))
    assert found.tokenizer.pad_token == found.tokenizer.eos_token
    assert last_label(tmp_path, found.tokenizer)[0] == found.tokenizer.eos_token_id


def template(single, **ids):
    def change(tokenizer):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=list(ids.items())
        )

    return change


def test_an_end_token_that_the_tokenizer_adds_itself_stands_once(tmp_path):
    folder = saved(tmp_path, "llama", template("<s> $A </s>", **{"<s>": 1, "</s>": 2}))
    tokenizer = loaded(folder).tokenizer
    label, ids = last_label(tmp_path, tokenizer)
    assert label == tokenizer.eos_token_id
    assert ids[-2] != tokenizer.eos_token_id


def test_a_beginning_that_the_tokenizer_writes_twice_is_the_tokenizers_own(tmp_path):
    tokenizer = loaded(saved(tmp_path, "llama", template("<s> <s> $A", **{"<s>": 1}))).tokenizer
    assert last_label(tmp_path, tokenizer)[1][:2] == tokenizer("x")["input_ids"][:2]


@pytest.mark.parametrize(
    "text", ["{% for m in messages %}", "{{ messages", "{% nothing %}", "{{ 1 | no_filter }}"]
)
def test_a_chat_template_that_cannot_be_parsed(tmp_path, text):
    tokenizer = loaded(
        saved(tmp_path, change=lambda t: setattr(t, "chat_template", text))
    ).tokenizer
    with pytest.raises(UserError):
        last_label(tmp_path, tokenizer, type="chat_template")


def test_no_chat_template_names_those_of_ours(tmp_path):
    tokenizer = loaded(saved(tmp_path, "gpt2")).tokenizer
    with pytest.raises(UserError, match="has no chat template") as caught:
        last_label(tmp_path, tokenizer, type="chat_template")
    assert "chatml" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    "files", [{}, {"vocab.json": "{}", "merges.txt": ""}, {"tokenizer.model": "not one"}]
)
def test_no_tokenizer_that_can_be_read_is_refused(tmp_path, files):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        loaded(tmp_path)
    assert str(tmp_path) in caught.value.problems[0].where


def test_tokens_beyond_the_embeddings_get_rows(tmp_path):
    """A base whose embeddings are smaller than its own tokenizer's vocabulary."""
    tokenizer = tiny.TOKENIZERS["chatml"]()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) - 20, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    runs.run(runs.write_config(tmp_path, tmp_path / "base", num_records=4, max_steps=1))
    notes = runs.events(tmp_path / "out", "model")[0]["notes"]
    assert any("no row for 20 tokens" in note for note in notes)

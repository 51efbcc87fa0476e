"""tekken.json alone, as Mistral's checkpoints come: roles, a beginning, and the ids of its bytes."""

import base64
import json

import pytest

from ft.model import load_tokenizer
from ft.model.tokenizer_identity import tokenizer_identity
from ft.spec.runspec import ModelSpec

CONTROL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"]
NUM_CONTROL = 10
PIECES = [*(bytes([value]) for value in range(256)), b"He", b"ll", b"Hell", b"Hello", b" w", b" wo"]
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


@pytest.fixture
def folder(tmp_path):
    tekken = {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(PIECES),
            "default_vocab_size": len(PIECES) + NUM_CONTROL,
            "default_num_special_tokens": NUM_CONTROL,
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate(PIECES)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True}
            for rank, token in enumerate(CONTROL)
        ],
    }
    (tmp_path / "tekken.json").write_text(json.dumps(tekken))
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    return tmp_path


def spec(folder, is_mistral=True) -> ModelSpec:
    return ModelSpec(base_model=str(folder), tokenizer_use_mistral_common=is_mistral)


def piece_id(piece: bytes) -> int:
    return NUM_CONTROL + PIECES.index(piece)


def test_texts_begin_with_bos_and_the_roles_are_set(folder):
    loaded = load_tokenizer(spec(folder))
    tokenizer = loaded.tokenizer
    assert tokenizer("Hello wo")["input_ids"] == [1, piece_id(b"Hello"), piece_id(b" wo")]
    assert tokenizer("Hello", add_special_tokens=False)["input_ids"] == [piece_id(b"Hello")]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, CONTROL.index("<pad>"))
    assert loaded.new_token_ids == ()
    assert "laid out by the chat template" in loaded.notes[0]


def test_what_was_settled_is_saved(folder, tmp_path):
    load_tokenizer(spec(folder)).tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(spec(tmp_path / "saved", is_mistral=False)).tokenizer
    assert again("Hello")["input_ids"] == [1, piece_id(b"Hello")]
    assert again.eos_token == "</s>"


def test_the_key_is_part_of_what_tells_a_tokenizer(folder):
    assert tokenizer_identity(spec(folder)) != tokenizer_identity(spec(folder, is_mistral=False))

from __future__ import annotations

import pytest

import tiny
from ft.data.segments import IGNORE_INDEX, RecordError, Segment, Separate, Tokens, Whole
from ft.data.tokenize import (
    check_tokens,
    ids_before_training,
    split_response,
    tokenize,
)

PROMPT, RESPONSE = Segment("USER: a\nASSISTANT:"), Segment("SELECT 1", True, ends_turn=True)


def one(rendered, tokenizer) -> Tokens:
    return tokenize([rendered], tokenizer)[0][0]


def trained(row: Tokens) -> list[int]:
    return [label for label in row.labels if label != IGNORE_INDEX]


def test_prompt_is_masked_and_response_and_end_token_are_trained(any_tokenizer):
    row = one(Separate((PROMPT, RESPONSE)), any_tokenizer)
    prompt = any_tokenizer(PROMPT.text)["input_ids"]
    response = any_tokenizer(RESPONSE.text, add_special_tokens=False)["input_ids"]
    assert row.input_ids == [*prompt, *response, any_tokenizer.eos_token_id]
    assert trained(row) == [*response, any_tokenizer.eos_token_id]


def test_llama_gets_one_bos_and_a_space_piece_before_the_response():
    tokenizer = tiny.llama_tokenizer()
    row = one(Separate((PROMPT, RESPONSE)), tokenizer)
    assert row.input_ids[0] == tokenizer.bos_token_id
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.convert_ids_to_tokens(trained(row)[0]).startswith("▁")
    assert "ASSISTANT: SELECT 1" in tokenizer.decode(row.input_ids)


def test_byte_level_tokenizers_add_no_space():
    tokenizer = tiny.gpt2_tokenizer()
    row = one(Separate((PROMPT, RESPONSE)), tokenizer)
    assert "ASSISTANT:SELECT 1" in tokenizer.decode(row.input_ids)


def test_the_end_token_is_trained_where_it_is_the_pad_token():
    tokenizer = tiny.chatml_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert trained(one(Separate((PROMPT, RESPONSE)), tokenizer))[-1] == tokenizer.eos_token_id


def test_an_end_token_that_is_there_already_is_not_doubled():
    tokenizer = tiny.chatml_tokenizer()
    row = one(Separate((PROMPT, Segment("SELECT 1<|im_end|>", True, ends_turn=True))), tokenizer)
    assert row.input_ids.count(tokenizer.eos_token_id) == 1


def test_an_empty_response_has_no_end_token(any_tokenizer):
    row = one(Separate((PROMPT, Segment("", True, ends_turn=True))), any_tokenizer)
    assert trained(row) == []
    assert row.input_ids == any_tokenizer(PROMPT.text)["input_ids"]


def test_a_response_loses_its_bos_even_behind_an_empty_prompt():
    tokenizer = tiny.llama_tokenizer()
    row = one(Separate((Segment(""), RESPONSE)), tokenizer)
    assert tokenizer.bos_token_id not in row.input_ids


@pytest.mark.parametrize("max_tokens", [1, 3, 5, 100])
@pytest.mark.parametrize("side", ["right", "left"])
def test_segments_are_cut_as_the_tokenizer_truncates(any_tokenizer, max_tokens, side):
    any_tokenizer.truncation_side = side
    row = one(Separate((PROMPT,), max_tokens), any_tokenizer)
    theirs = any_tokenizer(PROMPT.text, truncation=True, max_length=max_tokens)["input_ids"]
    assert row.input_ids == theirs
    assert row.num_wanted == len(any_tokenizer(PROMPT.text)["input_ids"])


def test_a_full_response_has_no_room_for_an_end_token(any_tokenizer):
    length = len(any_tokenizer(RESPONSE.text)["input_ids"])
    full = one(Separate((PROMPT, RESPONSE), length), any_tokenizer)
    roomy = one(Separate((PROMPT, RESPONSE), length + 1), any_tokenizer)
    assert full.input_ids[-1] != any_tokenizer.eos_token_id
    assert roomy.input_ids[-1] == any_tokenizer.eos_token_id


def test_rows_of_a_long_text_lose_nothing(any_tokenizer):
    text = Segment("SELECT COUNT(*) FROM head WHERE age > 56", True, ends_turn=True)
    whole = one(Separate((text,)), any_tokenizer)
    rows = tokenize([Separate((text,), None, 4)], any_tokenizer)[0]
    assert [len(row.input_ids) for row in rows[:-1]] == [4] * (len(rows) - 1)
    assert [token for row in rows for token in row.input_ids] == whole.input_ids
    assert all(row.labels == row.input_ids for row in rows)


def test_a_masked_prefix_is_counted_as_the_text_it_is():
    tokenizer = tiny.llama_tokenizer()
    said = Segment("<|model|> SELECT", True, ends_turn=True, masked_prefix="<|model|>")
    row = one(Separate((PROMPT, said)), tokenizer)
    num_masked = len(tokenizer(PROMPT.text)["input_ids"]) + len(tokenizer("<|model|>")["input_ids"])
    assert row.labels[: num_masked - 1] == [IGNORE_INDEX] * (num_masked - 1)
    assert IGNORE_INDEX not in row.labels[num_masked - 1 :]


def test_several_end_tokens_fill_what_room_there_is():
    tokenizer = tiny.gpt2_tokenizer()
    ids = tokenizer(RESPONSE.text)["input_ids"]
    for room in (0, 1, 2, 3, 9):
        row = one(Separate((RESPONSE,), len(ids) + room, num_end_tokens=3), tokenizer)
        assert row.input_ids == [*ids, *[tokenizer.eos_token_id] * min(room, 3)]


def test_a_segment_may_keep_its_bos_and_an_empty_one_its_special_tokens():
    tokenizer = tiny.llama_tokenizer()
    bos = tokenizer.bos_token_id
    kept = one(Separate((PROMPT, Segment("a", keeps_bos=True))), tokenizer)
    assert kept.input_ids.count(bos) == 2
    assert one(Separate((Segment(""),), skips_empty=False), tokenizer).input_ids == [bos]


def test_without_special_tokens_a_text_is_what_it_says():
    tokenizer = tiny.llama_tokenizer()
    said = Segment("<s>a", True)
    row = one(Separate((said, said), has_special_tokens=False), tokenizer)
    assert row.input_ids == tokenizer("<s>a", add_special_tokens=False)["input_ids"] * 2
    assert row.input_ids.count(tokenizer.bos_token_id) == 2


def test_a_batch_gives_what_single_records_give(any_tokenizer):
    whole = Whole((Segment("USER: "), Segment("a b", True)), ())
    batch = [Separate((PROMPT, RESPONSE)), whole, Tokens([1, 2], [1, 2]), Separate((RESPONSE,))]
    assert tokenize(batch, any_tokenizer) == [tokenize([each], any_tokenizer)[0] for each in batch]


def test_a_whole_text_has_the_ids_of_the_text_and_the_labels_of_its_span(any_tokenizer):
    segments = (
        Segment("USER: a\nASSISTANT: "),
        Segment("SELECT 1 FROM head", True),
        Segment("\nx"),
    )
    row = one(Whole(segments, ()), any_tokenizer)
    text = "".join(segment.text for segment in segments)
    assert row.input_ids == any_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert any_tokenizer.decode(trained(row)).strip() == "SELECT 1 FROM head"


def test_white_space_within_a_span_is_trained(any_tokenizer):
    content = "def f():\n        return 1\n\n        é😀  "
    row = one(Whole((Segment("x:"), Segment(content, True), Segment("|")), ()), any_tokenizer)
    assert any_tokenizer.decode(trained(row)).strip() == content.strip()
    assert row.labels[-1] == IGNORE_INDEX
    inside = row.labels[row.labels.index(trained(row)[0]) : -1]
    assert IGNORE_INDEX not in inside


def test_the_end_token_is_found_within_three_tokens_behind_the_turn():
    tokenizer = tiny.chatml_tokenizer()
    ends = (frozenset({tokenizer.eos_token_id}),)
    turn = Segment("SELECT", True, ends_turn=True)
    near = one(Whole((turn, Segment("\n\n<|im_end|>x")), ends), tokenizer)
    far = one(Whole((turn, Segment("\n1234567<|im_end|>x")), ends), tokenizer)
    assert trained(near)[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in trained(far)


@pytest.mark.parametrize(
    ("input_ids", "labels", "what"),
    [
        ([1, 2], [1], "2 input_ids but 1 labels"),
        ([1, "2"], [1, 2], "'2', not an integer"),
        ([1, 2.0], [1, 2], "2.0, not an integer"),
        ([1, 600], [1, 2], "the vocabulary ends at 499"),
        ([1, -100], [1, 2], "hold -100"),
        ([1, 2], [1, -1], "labels hold -1"),
        (None, [1], "input_ids is NoneType"),
    ],
)
def test_unsound_tokens_are_refused(input_ids, labels, what):
    with pytest.raises(RecordError, match=what):
        check_tokens(input_ids, labels, 500)


def test_a_row_is_split_at_its_last_trained_run():
    labels = [-100, 7, -100, -100, 8, 9, -100]
    assert split_response(range(7), labels) == ([0, 1, 2, 3], [4, 5])
    assert split_response([1, 2], [-100, -100]) == ([1, 2], [])
    assert ids_before_training(Tokens([1, 2, 3], [-100, 2, 3])) == [1]
    assert ids_before_training(Tokens([1, 2], [-100, -100])) == [1, 2]

"""What records and keys say of training: turns, parts of turns, end tokens, the last turn alone."""

from __future__ import annotations

import pytest

import tiny
from data.test_chat import TURNS, chat, trained_runs
from ft.data.segments import IGNORE_INDEX, RecordError
from ft.data.tokenize import tokenize
from ft.runtime.errors import UserError

EOS = "<|im_end|>"


def asked(*answers, **keys):
    question = {"role": "user", "content": "What is the largest city?"}
    return [
        turn
        for answer in answers
        for turn in (question, {"role": "assistant", "content": answer, **keys})
    ]


def test_turns_that_say_themselves_whether_they_are_trained():
    layout = chat(message_field_training="train")
    turns = [
        {"role": "user", "content": "a", "train": True},
        {"role": "assistant", "content": "b", "train": False},
        {"role": "user", "content": "c", "train": None},
        {"role": "assistant", "content": "d"},
    ]
    assert trained_runs(layout, {"messages": turns}) == [f"a{EOS}", f"d{EOS}"]


def test_spans_of_characters_train_the_tokens_that_they_touch():
    layout = chat(message_field_training_detail="detail")
    spans = [
        {"begin_offset": 0, "end_offset": 5, "train": False},
        {"begin_offset": 6, "end_offset": 24, "train": True},
    ]
    turns = [
        TURNS[0],
        {"role": "assistant", "content": "SELECT COUNT(*) FROM head", "detail": spans},
    ]
    (run,) = trained_runs(layout, {"messages": turns})
    assert run == f" COUNT(*) FROM head{EOS}"


def test_spans_that_are_none_are_a_lost_record():
    layout = chat(message_field_training_detail="detail")
    turns = [TURNS[0], {**TURNS[1], "detail": [{"begin_offset": 0}]}]
    with pytest.raises(RecordError, match="training detail"):
        layout.render({"messages": turns})


def test_contents_in_parts_are_joined_and_parts_say_what_is_trained():
    parts = [
        {"type": "text", "text": "SELECT"},
        {"type": "text", "text": " COUNT(*)", "train": True},
    ]
    layout = chat()
    plain = trained_runs(layout, {"messages": asked([{"type": "text", "text": "SELECT COUNT(*)"}])})
    assert plain == [f"SELECT COUNT(*){EOS}"]
    assert trained_runs(layout, {"messages": asked(parts)}) == plain
    masked = [{**parts[0], "weight": 0}, parts[1]]
    assert trained_runs(layout, {"messages": asked(masked)}) == [f" COUNT(*){EOS}"]


def test_an_image_is_no_text():
    with pytest.raises(RecordError, match="turn's content is no text"):
        chat().render({"messages": asked([{"type": "image", "url": "a.png"}])})


def test_the_last_end_is_that_of_the_last_trained_turn():
    layout = chat(train_on_eos="last")
    turns = [*asked("b", "d"), {"role": "user", "content": "e"}]
    assert trained_runs(layout, {"messages": turns}) == ["b", f"d{EOS}"]


def test_an_empty_turn_trains_nothing():
    assert trained_runs(chat(), {"messages": asked("")}) == []


def test_eot_tokens_have_a_rule_of_their_own():
    template = "{% for m in messages %}{{ m.content }}<|endoftext|>\n{% endfor %}<|im_end|>"
    turns = {"messages": asked("b", "d")}
    keys = {"template": template, "eot_tokens": ("<|endoftext|>",)}
    runs = trained_runs(chat(**keys, train_on_eos="last", train_on_eot="none"), turns)
    assert runs == ["b", "d", EOS]
    runs = trained_runs(chat(**keys, train_on_eos="none", train_on_eot="turn"), turns)
    assert runs == ["b<|endoftext|>", "d<|endoftext|>"]
    with pytest.raises(UserError, match="train_on_eos is none and train_on_eot is turn"):
        chat(
            template=template,
            eot_tokens=("<|endoftext|>", EOS),
            train_on_eos="none",
            train_on_eot="turn",
        )


def test_no_roles_means_the_last_turn_and_all_that_the_template_adds_to_it():
    layout = chat(roles_to_train=())
    assert trained_runs(layout, {"messages": asked("b", "d")}) == [f"d{EOS}\n"]
    flagged = chat(roles_to_train=(), message_field_training="train")
    turns = asked("b", train=True) + asked("d")
    assert trained_runs(flagged, {"messages": turns}) == [f"b{EOS}"]


def test_system_texts_can_be_left_out():
    record = {"messages": asked("b"), "system": "Be brief."}
    assert "Be brief." in chat().render(record).text
    assert "system" not in chat(drop_system_message=True).render(record).text
    own = [{"role": "system", "content": "Own."}, *asked("b")]
    assert chat().render({"messages": own, "system": "Be brief."}).text.count("system") == 1


def test_the_end_of_a_turn_that_nobody_named_is_found():
    gemma = chat(chat_template="gemma3")
    assert gemma.untrained_end == "<end_of_turn>"
    assert chat().untrained_end is None
    template = "{% for m in messages %}{{ m.content }}<|endoftext|>\n{% endfor %}"
    assert chat(template=template).untrained_end == "<|endoftext|>"
    named = chat(template=template, eot_tokens=("<|endoftext|>",), train_on_eot="none")
    assert named.untrained_end is None
    assert named.end_of_turn.rule == "none"
    assert chat(template="{% for m in messages %}{{ m.content }}{% endfor %}").untrained_end == ""


def test_a_template_that_differs_from_the_tokenizers_own_is_noticed():
    assert chat(chat_template="llama3").differs_from_tokenizers_own
    assert not chat(chat_template="chatml").differs_from_tokenizers_own
    assert not chat(tiny.gpt2_tokenizer(), chat_template="chatml").differs_from_tokenizers_own


def test_time_does_not_grow_with_the_square_of_the_turns(monkeypatch):
    layout = chat()
    num_rendered = []
    render = type(layout.template).render

    def counted(self, *args, **keys):
        num_rendered.append(1)
        return render(self, *args, **keys)

    monkeypatch.setattr(type(layout.template), "render", counted)
    layout.render({"messages": asked(*["a b"] * 40)})
    assert len(num_rendered) == 2


def test_turns_found_at_once_are_those_found_one_by_one():
    contents = ["b", " b ", "", "[[dummy", "z", "é🙂", "a\nb\n", "<think>x</think>y"]
    record = {"messages": asked(*contents)}
    layout = chat(chat_template="gemma3", eot_tokens=("<|im_end|>",))
    fast = tokenize([layout.render(record)], layout.tokenizer)[0][0]
    # A property that the template doesn't write makes each turn be searched by itself.
    slow_record = {"messages": asked(*contents, reasoning_content="r")}
    slow = tokenize([layout.render(slow_record)], layout.tokenizer)[0][0]
    assert fast == slow
    assert any(label != IGNORE_INDEX for label in fast.labels)

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import tiny
from ft.data.layout import StrategyOptions
from ft.data.segments import IGNORE_INDEX, RecordError
from ft.data.strategy import resolve_strategy
from ft.data.tokenize import tokenize
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec

TURNS = [
    {"role": "user", "content": "What is the largest city?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "You are a helpful assistant."},
    {"role": "assistant", "content": "SELECT COUNT(*) FROM head"},
]

LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{% if '</think>' in message['content'] %}{{ message['content'] }}"
    "{% else %}<think>\n\n</think>\n\n{{ message['content'] }}{% endif %}"
    "{% else %}{{ message['content'].split('</think>')[-1] }}{% endif %}<|im_end|>\n{% endfor %}"
)


def chat(tokenizer=None, *, template=None, eot_tokens=(), train_on_inputs=False, **keys):
    options = StrategyOptions(
        4096,
        train_on_inputs,
        chat_template="jinja" if template else "tokenizer_default",
        chat_template_jinja=template,
        eot_tokens=eot_tokens,
    )
    spec = DatasetSpec(path="-", type="chat_template", **keys)
    tokenizer = tokenizer or tiny.chatml_tokenizer()
    return resolve_strategy(spec, Path(), tokenizer, options).strategy


def trained_runs(layout, record) -> list[str]:
    """The texts that are trained, one for each unbroken run."""
    row = tokenize([layout.render(record)], layout.tokenizer)[0][0]
    runs, run = [], []
    for label in [*row.labels, IGNORE_INDEX]:
        if label != IGNORE_INDEX:
            run.append(label)
        elif run:
            runs.append(layout.tokenizer.decode(run))
            run = []
    return runs


def text_of(layout, record) -> str:
    return layout.render(record).text


def test_assistant_turns_are_trained_with_their_end_token_though_it_is_the_pad_token():
    layout = chat()
    assert layout.tokenizer.pad_token == layout.tokenizer.eos_token == "<|im_end|>"
    assert trained_runs(layout, {"messages": TURNS}) == [
        "Paris.<|im_end|>",
        "SELECT COUNT(*) FROM head<|im_end|>",
    ]


def test_the_ids_are_those_of_the_template():
    layout = chat()
    row = tokenize([layout.render({"messages": TURNS})], layout.tokenizer)[0][0]
    theirs = layout.tokenizer.apply_chat_template(TURNS, return_dict=False)
    assert row.input_ids == theirs


@pytest.mark.parametrize(
    ("train_on_eos", "num_ends"), [("turn", 2), ("all", 4), ("last", 1), ("none", 0)]
)
def test_train_on_eos(train_on_eos, num_ends):
    layout = chat(train_on_eos=train_on_eos)
    row = tokenize([layout.render({"messages": TURNS})], layout.tokenizer)[0][0]
    assert row.labels.count(layout.tokenizer.eos_token_id) == num_ends


def test_roles_to_train_and_train_on_inputs():
    user = "What is the largest city?<|im_end|>"
    assert trained_runs(chat(roles_to_train=("user",)), {"messages": TURNS[:2]}) == [user]
    runs = trained_runs(chat(train_on_inputs=True), {"messages": TURNS[:2]})
    assert runs == [user, "Paris.<|im_end|>"]


def test_the_system_field_is_the_first_turn():
    text = text_of(chat(), {"messages": TURNS[:2], "system": "Be brief."})
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert "system" not in text_of(chat(), {"messages": TURNS[:2], "system": None})


SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Paris."}]


def test_sharegpt_records_are_recognized_or_mapped():
    recognized = text_of(chat(), {"conversations": SHAREGPT})
    mapped = chat(
        field_messages="turns", message_property_mappings={"role": "from", "content": "value"}
    )
    assert recognized == text_of(mapped, {"turns": SHAREGPT})
    assert recognized == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nParis.<|im_end|>\n"
    )


def test_roles_of_the_yaml_replace_the_known_ones():
    layout = chat(roles={"assistant": ("bot",), "user": ("me",)})
    turns = [{"role": "me", "content": "Hi"}, {"role": "bot", "content": "Paris."}]
    assert trained_runs(layout, {"messages": turns}) == ["Paris.<|im_end|>"]


@pytest.mark.parametrize("family", list(tiny.TOKENIZERS))
def test_a_template_that_strips_and_writes_spaces_around_turns(family):
    tokenizer = tiny.TOKENIZERS[family]()
    layout = chat(tokenizer, template=LLAMA_2)
    turns = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": " Paris.\n"}]
    # The space before the end token belongs to the template, and is not trained.
    content, end = trained_runs(layout, {"messages": turns})
    assert (content.strip(), end) == ("Paris.", tokenizer.eos_token)


def test_equal_turns_are_told_apart():
    turns = [
        {"role": "user", "content": "assistant"},
        {"role": "assistant", "content": "assistant"},
        {"role": "user", "content": "assistant"},
    ]
    assert trained_runs(chat(), {"messages": turns}) == ["assistant<|im_end|>"]


def test_reasoning_that_the_template_drops_or_frames():
    layout = chat(template=THINKING)
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>x</think>b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "<think>y</think>d"},
    ]
    # What both renderings begin with, `<think>`, is taken for the template's own.
    assert trained_runs(layout, {"messages": turns}) == ["b<|im_end|>", "y</think>d<|im_end|>"]
    plain = [turns[0], {"role": "assistant", "content": "b"}]
    assert trained_runs(layout, {"messages": plain}) == ["b<|im_end|>"]


GEMMA_LIKE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>\n{% endfor %}"


def test_an_end_token_that_is_not_the_eos_token_has_to_be_named():
    record = {"messages": TURNS[:2]}
    assert trained_runs(chat(template=GEMMA_LIKE), record) == ["Paris."]
    named = chat(template=GEMMA_LIKE, eot_tokens=("<|endoftext|>",))
    assert trained_runs(named, record) == ["Paris.<|endoftext|>"]
    in_words = GEMMA_LIKE.replace("<|endoftext|>", "<end_of_turn>")
    with pytest.raises(UserError, match="eot_tokens: '<end_of_turn>' is"):
        chat(template=in_words, eot_tokens=("<end_of_turn>",))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a"}, "missing field 'messages'"),
        ({"messages": []}, "field 'messages' is no list of turns"),
        ({"messages": "a"}, "field 'messages' is no list of turns"),
        ({"messages": ["a"]}, "turn is no object"),
        ({"messages": [{"content": "a"}]}, "turn without a role"),
        ({"messages": [{"role": "user", "content": [1]}]}, "turn's content is no text"),
    ],
)
def test_records_that_hold_no_conversation_are_refused(record, reason):
    with pytest.raises(RecordError) as caught:
        chat().render(record)
    assert caught.value.reason == reason


def test_what_the_template_refuses_is_a_lost_record():
    with pytest.raises(RecordError, match=r"chat template refused: .*no such role"):
        chat(template=LLAMA_2).render({"messages": [{"role": "tool", "content": "a"}]})


def test_templates_that_are_not_there():
    with pytest.raises(UserError, match="no chat template"):
        chat(tiny.gpt2_tokenizer())
    with pytest.raises(ValidationError, match="did you mean chatml"):
        chat(chat_template="chatmll")
    with pytest.raises(UserError, match="chat_template_jinja:2"):
        chat(template="{% for m in messages %}\n{{ m['role' }}{% endfor %}")


def test_chatml_is_built_in():
    ours = text_of(chat(chat_template="chatml"), {"messages": TURNS})
    assert ours == text_of(chat(), {"messages": TURNS})

"""The templates that the YAML can name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import tiny
from data.test_chat import chat
from ft.data.chat import Template, chat_layout, template_text
from ft.data.chat.templates import named_template
from ft.data.layout import StrategyOptions
from ft.data.segments import RecordError
from ft.data.tokenize import tokenize
from ft.runtime.errors import UserError
from ft.spec.chat_templates import BUILT_IN, NOT_SUPPORTED, checked_chat_template
from ft.spec.runspec import DatasetSpec

GOLDEN = Path(__file__).parent / "golden"
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Ja.\n"}]
CALL = {"type": "function", "id": "abcdefgh0", "function": {"name": "w", "arguments": {"c": "Rom"}}}
TOOL = {"type": "function", "function": {"name": "w", "description": "d", "parameters": {}}}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_template_writes_a_question_and_its_answer(name):
    template = Template(named_template(name), {"bos_token": "<s>", "eos_token": "</s>"})
    text = template.render(TURNS)
    assert text.index("Hi") < text.index("Ja.")
    asked = template.render(TURNS[:1], add_generation_prompt=True)
    assert asked.startswith(text[: text.index("Hi") + 2])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Ja.\n<|im_end|>\n"),
        (
            "gemma3",
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nJa.<end_of_turn>\n",
        ),
        (
            "llama3",
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nJa.<|eot_id|>",
        ),
        ("mistral_v3_tekken", "<s>[INST]Hi[/INST] Ja.\n</s>"),
        ("mistral_v2v3", "<s>[INST] Hi[/INST] Ja.</s>"),
        ("phi_3", "<s><|user|>\nHi<|end|>\n<|assistant|>\n Ja.\n<|end|>\n"),
    ],
)
def test_templates_by_example(name, text):
    template = Template(named_template(name), {"bos_token": "<s>", "eos_token": "</s>"})
    assert template.render(TURNS) == text


def test_reasoning_is_written_behind_the_last_question_only():
    template = Template(named_template("qwen3"))
    turns = [*TURNS, *TURNS]
    turns[1] = turns[3] = {"role": "assistant", "content": "b", "reasoning_content": "r"}
    text = template.render(turns)
    assert text.count("<think>") == 1
    assert text.endswith("<|im_start|>assistant\n<think>\nr\n</think>\n\nb<|im_end|>\n")
    quiet = Template(named_template("qwen3"), {}, {"enable_thinking": False})
    assert quiet.render(TURNS[:1], add_generation_prompt=True).endswith("</think>\n\n")


@pytest.mark.parametrize(
    "name", ["qwen_25", "qwen3", "llama4", "mistral_v2v3", "deepseek_v3", "gemma4", "jamba"]
)
def test_calls_of_tools_and_their_results_are_written(name):
    template = Template(named_template(name), {"bos_token": "<s>", "eos_token": "</s>"})
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "abcdefgh0"},
        {"role": "assistant", "content": "Sun."},
    ]
    text = template.render(turns, [TOOL])
    places = [text.rindex(piece) for piece in ("Weather?", "Rom", "sunny", "Sun.")]
    assert places == sorted(places)


def test_what_a_template_refuses_and_what_cannot_be_parsed():
    with pytest.raises(RecordError, match="turns must alternate"):
        Template(named_template("gemma")).render([TURNS[0], TURNS[0]])
    with pytest.raises(UserError, match="chat_template_jinja:2"):
        Template("a\n{% if %}").check_syntax()


def test_templates_run_in_a_sandbox():
    reach = Template("{{ messages.__class__.__mro__ }}")
    with pytest.raises(RecordError, match="SecurityError"):
        reach.render(TURNS)


def test_names_are_checked_without_a_template_engine():
    assert checked_chat_template("tokenizer_default_fallback_chatml")
    for name, instead in NOT_SUPPORTED.items():
        with pytest.raises(ValueError, match=r"is not supported") as caught:
            checked_chat_template(name)
        assert instead in str(caught.value)
    with pytest.raises(ValueError, match=r"did you mean llama3\?"):
        checked_chat_template("lama3")
    with pytest.raises(ValueError, match="tokenizer_default, chatml"):
        checked_chat_template("xyzzy")


def test_which_template_holds(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }}!")

    def text(options=None, tokenizer=None, **keys):
        spec = DatasetSpec(path="-", type="chat_template", **keys)
        return template_text(spec, StrategyOptions(8, **(options or {})), tokenizer)

    own, bare = tiny.chatml_tokenizer(), tiny.gpt2_tokenizer()
    assert text() is None
    assert text({"chat_template": "gemma"}) == named_template("gemma")
    assert text({"chat_template": "gemma"}, chat_template="llama3") == named_template("llama3")
    assert text({"chat_template": "gemma"}, chat_template_jinja="x") == "x"
    assert text({"chat_template_jinja": str(file)}) == "{{ messages[0].content }}!"
    fallback = {"chat_template": "tokenizer_default_fallback_llama3"}
    assert text(fallback, own) is None
    assert text(fallback, bare) == named_template("llama3")
    with pytest.raises(UserError, match="there is no file"):
        text({"chat_template_jinja": str(tmp_path / "none.jinja")})
    with pytest.raises(UserError, match="without a template"):
        text({"chat_template": "jinja"})


def test_properties_that_a_template_does_not_read_never_reach_it():
    assert "tool_calls" not in chat(chat_template="chatml").template.message_properties
    assert "tool_calls" in chat(chat_template="qwen3").template.message_properties


def _golden_files():
    return sorted(GOLDEN.glob("chat_*.json"))


@pytest.mark.parametrize("path", _golden_files(), ids=lambda path: path.stem)
def test_ids_and_labels_are_those_of_axolotl(path):
    """Each file holds cases (keys, record) with the ids and labels that axolotl 0.19 made."""
    folder = os.environ.get("FT_TEST_TOKENIZERS")
    name = path.stem.removeprefix("chat_")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"FT_TEST_TOKENIZERS names no folder with the tokenizer {name}")
    tokenizer = AutoTokenizer.from_pretrained(Path(folder) / name)
    for case in json.loads(path.read_text(encoding="utf-8")):
        spec = DatasetSpec.model_validate_json(json.dumps({"path": "-", **case["dataset"]}))
        cfg = case["cfg"]
        options = StrategyOptions(
            2048,
            cfg.get("train_on_inputs", False),
            cfg.get("chat_template", "tokenizer_default"),
            eot_tokens=tuple(cfg.get("eot_tokens", ())),
        )
        layout = chat_layout(spec, options, tokenizer)
        row = tokenize([layout.render(case["record"])], tokenizer)[0][0]
        assert row.input_ids == case["input_ids"], case
        trained = [at for at, label in enumerate(row.labels) if label >= 0]
        assert trained == case["trained"], case

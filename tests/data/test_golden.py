"""Every layout against what axolotl itself made of the same records: ids and labels, one by one.

golden/cases.json holds the records and the texts that they are laid out as; beside it lies one file
a tokenizer with what axolotl trained on, written by golden/make.py. Those of the real tokenizers
are compared where FT_TEST_TOKENIZERS names a folder that has them.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import tiny
from ft.data.chat import CHAT_TYPE
from ft.data.layout import StrategyOptions
from ft.data.layouts import layout_names
from ft.data.prompt import PromptLayout, prompt_layout
from ft.data.segments import IGNORE_INDEX, Separate
from ft.data.strategy import resolve_strategy
from ft.data.tokenize import split_response, tokenize
from ft.spec.runspec import DatasetSpec

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
REAL_TOKENIZERS = os.environ.get("FT_TEST_TOKENIZERS")


def name_of(case) -> str:
    return case["name"]


@cache
def real_tokenizer(name: str):
    if REAL_TOKENIZERS is None:
        pytest.skip(
            "set FT_TEST_TOKENIZERS to a folder with llama2/, llama3/ and qwen3/, each holding the "
            "tokenizer.json and tokenizer_config.json of that model family"
        )
    return AutoTokenizer.from_pretrained(Path(REAL_TOKENIZERS, name))


@cache
def golden(name: str) -> dict[str, list[dict[str, list]]]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def rendered(case, tokenizer, sequence_len=512):
    options = StrategyOptions(**{"sequence_len": sequence_len, **case.get("options", {})})
    spec = DatasetSpec.model_validate({"path": "-", **case["dataset"]})
    return resolve_strategy(spec, Path(), tokenizer, options).strategy.render(case["record"])


def trained_spans(labels: list[int]) -> list[list[int]]:
    spans: list[list[int]] = []
    for position, label in enumerate(labels):
        if label == IGNORE_INDEX:
            continue
        if spans and spans[-1][1] == position:
            spans[-1][1] += 1
        else:
            spans.append([position, position + 1])
    return spans


def check(case, tokenizer, expected):
    rows = [row for row in tokenize([rendered(case, tokenizer)], tokenizer)[0] if row.input_ids]
    expected = [row for row in expected if row["input_ids"]]
    assert [row.input_ids for row in rows] == [row["input_ids"] for row in expected]
    assert [trained_spans(row.labels) for row in rows] == [row["trained"] for row in expected]
    for row in rows:
        pairs = zip(row.input_ids, row.labels, strict=True)
        assert all(label in (token, IGNORE_INDEX) for token, label in pairs)


@pytest.mark.parametrize("case", [case for case in CASES if "text" in case], ids=name_of)
def test_the_text_of_every_layout(case):
    found = rendered(case, tiny.llama_tokenizer())
    assert isinstance(found, Separate)
    assert [segment.text for segment in found.segments if segment.text] == case["text"]


@pytest.mark.parametrize("family", tiny.TOKENIZERS)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_ids_and_labels_of_every_layout(case, family):
    expected = golden(f"tiny_{family}")
    if case["name"] in expected:
        check(case, tiny.TOKENIZERS[family](), expected[case["name"]])
    else:
        assert (case["dataset"]["type"], family) in {
            ("llama2_chat", "chatml"),
            ("llama2_chat", "gpt2"),
        }


@pytest.mark.parametrize("name", ["llama2", "llama3", "qwen3"])
def test_ids_and_labels_with_real_tokenizers(name):
    tokenizer = real_tokenizer(name)
    for case in CASES:
        if case["name"] in golden(name):
            check(case, tokenizer, golden(name)[case["name"]])


def test_every_layout_has_a_case():
    types = {str(case["dataset"]["type"]) for case in CASES}
    no_answer = {CHAT_TYPE, "classification"}  # tests of their own: one token to train, or turns
    assert set(layout_names()) - no_answer <= types


PLAIN = [case for case in CASES if case["name"].endswith(", plain")]
END_TOKENS = {"metharme": 3}


@pytest.mark.parametrize("case", PLAIN, ids=name_of)
def test_the_end_of_the_turn_is_trained(case):
    """One end token carries labels, and metharme's three; input_output trains its text's own."""
    tokenizer = tiny.llama_tokenizer()
    rows = tokenize([rendered(case, tokenizer)], tokenizer)[0]
    labels = [label for row in rows for label in row.labels if label != IGNORE_INDEX]
    if case["dataset"]["type"] == "llama2_chat":  # its string goes on with the next turn's <s>
        assert labels.pop() == tokenizer.bos_token_id
    num_ends = END_TOKENS.get(str(case["dataset"]["type"]), 1)
    assert labels[len(labels) - num_ends :] == [tokenizer.eos_token_id] * num_ends


@pytest.mark.parametrize("case", PLAIN, ids=name_of)
def test_a_model_is_asked_with_the_ids_that_stood_before_its_last_answer(case):
    tokenizer = tiny.llama_tokenizer()
    spec = DatasetSpec.model_validate({"path": "-", **case["dataset"]})
    options = StrategyOptions(4096)
    resolved = resolve_strategy(spec, Path(), tokenizer, options)
    layout = prompt_layout(spec, resolved, options, tokenizer, case["record"])
    layout = PromptLayout.from_json(json.loads(json.dumps(layout.to_json())))
    asked = layout.encode_prompt(case["record"], tokenizer)
    (row,) = tokenize([rendered(case, tokenizer, 4096)], tokenizer)[0]
    if spec.type == "completion":  # it goes on from its own text
        assert [*asked, tokenizer.eos_token_id] == row.input_ids
    else:
        assert asked == split_response(row.input_ids, row.labels)[0]
    assert layout.default_field is not None

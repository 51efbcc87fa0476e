"""A template of one's own: Chinese headings, the answer's slot, and an end token written by hand."""

import json

import pytest
import torch
from safetensors.torch import load_file

import tiny
from ft.data import PromptLayout, prepare_data
from ft.data.segments import IGNORE_INDEX
from ft.evaluate.trained import open_run
from ft.runtime import UserError
from ft.spec.runspec import DatasetSpec, DataSpec, MappingLayout
from runs import run, write_config

END = "<|endoftext|>"
PROMPT = "### 指令:\n{instruction}\n\n### 输入:\n{input}\n\n### 响应:\n"
RECORDS = [
    {"instruction": "判断评论的情感", "input": f"房间很干净。服务也好。{i}", "output": "正面"}
    for i in range(4)
]


def prepared(folder, format, records=RECORDS, **keys):
    """The rows of a local JSON array, laid out by a format; and the account of it."""
    path = folder / "dataset.json"
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    layout = MappingLayout(format=format, no_input_format=format.replace("{input}", ""), **keys)
    spec = DataSpec(datasets=(DatasetSpec(path=str(path), type=layout),), sequence_len=256)
    tokenizer = tiny.gpt2_tokenizer()
    data = prepare_data(spec, tokenizer=tokenizer, seed=0, base_dir=folder)
    return data, tokenizer


def trained_text(row, tokenizer):
    return tokenizer.decode(row.input_ids[row.labels != IGNORE_INDEX])


WAYS = {
    "the prompt alone": (PROMPT, RECORDS),
    "all of the text": (PROMPT + "{output}", RECORDS),
    "with the end token": (PROMPT + "{output}" + END, RECORDS),
    "and a line break": (PROMPT + "{output}" + END + "\n", RECORDS),
    "in the records": (PROMPT, [each | {"output": each["output"] + END} for each in RECORDS]),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_written_the_end_token_is_trained_once(tmp_path, way):
    format, records = WAYS[way]
    data, tokenizer = prepared(tmp_path, format, records)
    row = data.train[0]
    whole = tokenizer.decode(row.input_ids)
    assert whole.startswith("### 指令:\n判断评论的情感\n\n### 输入:\n房间很干净。服务也好。")
    assert whole.endswith(f"### 响应:\n正面{END}")
    assert trained_text(row, tokenizer) == f"正面{END}"
    assert data.report.datasets[0].num_without_end == 0


def test_what_stands_behind_the_answer_is_trained_with_it(tmp_path):
    data, tokenizer = prepared(tmp_path, PROMPT + "{output}\n### 完")
    assert trained_text(data.train[0], tokenizer) == f"正面\n### 完{END}"


def test_an_end_token_in_front_of_the_answer_is_told_of(tmp_path):
    data, _ = prepared(tmp_path, PROMPT + END)
    (note,) = data.report.datasets[0].notes
    assert f"format puts the end token {END!r} in front of the answer, untrained" in note


@pytest.mark.parametrize("behind", ["{input}", "{output}"])
def test_nothing_of_the_record_may_stand_behind_the_answer(tmp_path, behind):
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, PROMPT + "{output}" + behind)
    problem = caught.value.problems[0]
    assert problem.what == f"type: format, behind {{output}}: nothing fills {behind}"


def test_a_model_is_asked_with_the_slot_left_empty(tmp_path):
    data, tokenizer = prepared(tmp_path, PROMPT + "{output}" + END)
    travelled = PromptLayout.from_json(json.loads(json.dumps(data.layouts[0].to_json())))
    question = {key: RECORDS[0][key] for key in ("instruction", "input")}
    asked = tokenizer.decode(travelled.encode_prompt(question, tokenizer))
    assert asked == PROMPT.format(**question)


def test_a_chat_template_on_a_base_model_trains_its_new_tokens(tmp_path, tiny_llamas):
    """A base without a template or its tokens: both become tokens, whose embeddings are saved."""
    turns = [[{"role": "user", "content": r["input"]}, {"role": "assistant", "content": "正面"}]
             for r in RECORDS]  # fmt: skip
    records = tmp_path / "chat.json"
    records.write_text(json.dumps([{"messages": each} for each in turns]), encoding="utf-8")
    config = write_config(
        tmp_path, tiny_llamas["gpt2"], datasets=[{"path": str(records), "type": "chat_template"}],
        chat_template="chatml", special_tokens={"eos_token": "<|im_end|>"},
        tokens=["<|im_start|>"], max_steps=2, sequence_len=128,
    )  # fmt: skip
    run(config)
    loaded = open_run(tmp_path / "out").load()
    tokenizer = loaded.tokenizer.tokenizer
    assert [len(tokenizer(token)["input_ids"]) for token in ("<|im_start|>", "<|im_end|>")] == [
        1,
        1,
    ]
    new = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    rows = [tensor for name, tensor in saved.items() if "embed_tokens" in name]
    assert rows, "the embeddings are in the adapter"
    fresh = loaded.model.get_input_embeddings().weight[new]
    assert not torch.equal(fresh[0], fresh[1]), "each was trained by itself"

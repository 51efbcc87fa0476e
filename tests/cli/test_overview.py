"""What `ft validate` says of a config that is right: nothing that the run would not do."""

import pytest
import yaml

from ft.cli.overview import overview
from ft.spec import load_spec

RECORDS = "".join('{"question": "q", "context": "c", "answer": "a"}\n' for _ in range(10))
KEYS = {
    "base_model": "a/b",
    "learning_rate": 1e-3,
    "datasets": [{"path": "d.jsonl", "type": "context_qa"}],
}


def said_of(tmp_path, **keys):
    (tmp_path / "d.jsonl").write_text(RECORDS)
    (tmp_path / "c.yml").write_text(yaml.safe_dump(KEYS | keys))
    lines = overview(load_spec(tmp_path / "c.yml"))
    return {name: text.strip() for name, _, text in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(
    ("keys", "method"),
    [
        ({}, "all parameters"),
        ({"unfrozen_parameters": ["lm_head"]}, "some parameters"),
        ({"adapter": "lora"}, "lora, r 16, alpha 16, dropout 0"),
        ({"adapter": "ia3"}, "ia3"),
        ({"adapter": "prompt_tuning"}, "prompt_tuning, virtual tokens 20"),
        ({"adapter": "hra", "lora_r": 4}, "hra, r 4"),
    ],
)
def test_a_method_is_named_with_the_sizes_that_it_has(tmp_path, keys, method):
    assert said_of(tmp_path, **keys)["method"] == method


@pytest.mark.parametrize(
    ("keys", "length"),
    [
        ({"micro_batch_size": 2}, "1 epoch of 10 records = 5 steps,"),
        ({"max_steps": 7}, "7 steps,"),
        ({"sample_packing": True}, "1 epoch of 10 records,"),
        ({"datasets": [{"path": "d.jsonl", "type": "completion", "field": "answer"}]},
         "1 epoch of 10 records,"),
        ({"datasets": KEYS["datasets"] * 2, "mix_strategy": "interleave_under"}, "1 epoch,"),
    ],
)  # fmt: skip
def test_steps_are_counted_where_a_record_is_a_row(tmp_path, keys, length):
    assert said_of(tmp_path, **keys)["training"].startswith(length)

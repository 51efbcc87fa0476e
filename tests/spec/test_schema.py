"""The JSON Schema says what `ft validate` says, as far as one key goes."""

from pathlib import Path

import pytest

from ft.spec.document import read_document
from ft.spec.key_table import key_table
from ft.spec.schema import json_schema

ROOT = Path(__file__).parents[2]
CONFIGS = [
    *sorted((ROOT / "configs").glob("*.yml")),
    *sorted((ROOT / "examples").glob("*/*.yml")),
    ROOT / "tests/fixtures/sql.yml",
]
SMALL = {"base_model": "x", "learning_rate": 1e-4, "datasets": [{"path": "d.jsonl"}]}


@pytest.fixture(scope="module")
def schema():
    return json_schema()


def properties_of(schema, prefix):
    if not prefix:
        return schema["properties"]
    definitions = schema["$defs"]
    if prefix == "datasets.type":
        pair = (definitions[name]["properties"] for name in ("MappingLayout", "PreferenceMapping"))
        return {key: entry for properties in pair for key, entry in properties.items()}
    return definitions["DatasetSpec" if prefix == "datasets" else "SpecialTokens"]["properties"]


def test_every_key_is_there_with_its_words(schema):
    for key in key_table().values():
        prefix, _, name = key.name.rpartition(".")
        entry = properties_of(schema, prefix)[name]
        assert (key.sentence if key.state != "not supported" else key.instead) in entry[
            "description"
        ]
        assert bool(entry.get("deprecated")) == (key.state != "works")
        for old in key.old_names:
            assert properties_of(schema, prefix)[old.rpartition(".")[2]]["deprecated"]


def test_nothing_else_is_taken(schema):
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"base_model", "datasets", "learning_rate"}
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_values_and_defaults(schema):
    optimizer = schema["properties"]["optimizer"]
    words, read_as = [branch["enum"] for branch in optimizer["anyOf"] if "enum" in branch]
    assert "adamw_torch_8bit" in read_as
    assert "paged_adamw_32bit" in words
    assert optimizer["default"] == "adamw_torch_fused"
    assert "tokens" in schema["properties"]["sequence_len"]["description"]


def test_references_lead_somewhere(schema):
    def references(part):
        if isinstance(part, dict):
            yield from [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            for inner in part.values():
                yield from references(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from references(inner)

    found = set(references(schema))
    assert found
    assert all(name.removeprefix("#/$defs/") in schema["$defs"] for name in found)


@pytest.fixture(scope="module")
def validator(schema):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


class TestWithAValidator:
    @pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}-{p.name}")
    def test_real_files_are_valid(self, validator, path):
        assert not list(validator.iter_errors(read_document(path).values))

    @pytest.mark.parametrize(
        "right",
        [
            {},
            {"lora_r": None},
            {"adapter": "none"},
            {"eval_strategy": False},
            {"sample_packing": True},
            {"deepspeed": None},
            {"lora_target_modules": "q_proj"},
            {"datasets": ["d.jsonl"]},
            {"flash_attention": True},
            {"bf16": "auto"},
            {"report_to": "none"},
            {"id2label": {0: "bad", 1: "good"}},
            {"interleave_probs": "0.7,0.3"},
        ],
    )
    def test_what_is_right(self, validator, right):
        assert validator.is_valid({**SMALL, **right})

    @pytest.mark.parametrize(
        "wrong",
        [
            {"lora_rr": 8},
            {"lora_r": 0},
            {"lora_r": "16"},
            {"adapter": "lorra"},
            {"sample_packing": "yes"},
            {"datasets": []},
            {"datasets": [{"path": "x", "typ": "alpaca"}]},
            {"datasets": [{"type": "alpaca"}]},
            {"special_tokens": {"pad_tokn": "x"}},
            {"model_quantization_config": "GPTQConfig"},
            {"optimizer": "muon"},
        ],
    )
    def test_what_is_wrong(self, validator, wrong):
        assert not validator.is_valid({**SMALL, **wrong})

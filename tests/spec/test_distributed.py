"""fsdp, fsdp_config, deepspeed: read into types; without effect in one process, an error in several."""

import pytest

from ft.runtime import UserError
from ft.spec import load_spec

SMALL = "base_model: some/model\nlearning_rate: 2e-4\ndatasets: [data.jsonl]\n"
FSDP = """\
fsdp: [full_shard, auto_wrap]
fsdp_config:
  fsdp_version: 2
  fsdp_offload_params: false
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  transformer_layer_cls_to_wrap: LlamaDecoderLayer
  state_dict_type: FULL_STATE_DICT
  reshard_after_forward: true
"""
DEEPSPEED = """\
deepspeed:
  zero_optimization:
    stage: 3
    offload_optimizer: {device: cpu, pin_memory: true}
    reduce_bucket_size: auto
    sub_group_size: 1e9
  bf16: {enabled: auto}
  gradient_clipping: auto
  train_micro_batch_size_per_gpu: auto
"""


@pytest.fixture
def problems(tmp_path):
    def problems(text: str) -> list[tuple[str, str, str]]:
        """Line:column, what is wrong, what to do; none for a file that loads."""
        path = tmp_path / "c.yml"
        path.write_text(SMALL + text)
        try:
            load_spec(path)
        except UserError as error:
            return [(p.where.split(":", 1)[1], p.what, p.fix) for p in error.problems]
        return []

    return problems


@pytest.mark.parametrize(
    "text", [FSDP, DEEPSPEED, "deepspeed: deepspeed_configs/zero2.json\n", "fsdp_version: 2\n"]
)
def test_real_blocks_load_and_are_said_to_have_no_effect(tmp_path, text):
    path = tmp_path / "c.yml"
    path.write_text(SMALL + text)
    said = "\n".join(load_spec(path).notices)
    assert text.split(":")[0] in said
    assert "one process holds the whole model" in said


@pytest.mark.parametrize("text", [FSDP, DEEPSPEED, "deepspeed: zero2.json\n"])
def test_several_processes_are_an_error(problems, monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", "8")
    found = problems(text)
    assert found
    for _, what, fix in found:
        assert "with several processes" in what
        assert "remove it" in fix


@pytest.mark.parametrize("text", ["fsdp:\nfsdp_config:\ndeepspeed:\n", "fsdp: []\ndeepspeed: ''\n"])
def test_empty_ones_ask_for_nothing(problems, monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert problems(text) == []


@pytest.mark.parametrize(
    ("text", "place", "what", "fix"),
    [
        ("fsdp: [full_shard, auto_warp]\n", "4:1", "there is no 'auto_warp'", "auto_wrap"),
        ("fsdp_version: 3\n", "4:1", "fsdp_version: got 3, expected 1 or 2", ""),
        (
            "fsdp_config:\n  fsdp_ofload_params: true\n",
            "5:3",
            "unknown key 'fsdp_config.fsdp_ofload_params'",
            "did you mean offload_params?",
        ),
        (
            "fsdp_config:\n  fsdp_state_dict_type: FULL_STATE\n",
            "5:3",
            "fsdp_config.fsdp_state_dict_type: got 'FULL_STATE'",
            "did you mean FULL_STATE_DICT?",
        ),
        ("fsdp_config: full_shard\n", "4:1", "fsdp_config: got 'full_shard'", ""),
        (
            "deepspeed:\n  zero_optimization:\n    stage: 4\n",
            "6:5",
            "deepspeed.zero_optimization.stage: got 4",
            "",
        ),
        (
            "deepspeed:\n  zero_optimization:\n    overlap_com: true\n",
            "6:5",
            "unknown key 'deepspeed.zero_optimization.overlap_com'",
            "did you mean overlap_comm?",
        ),
        (
            "deepspeed:\n  bf16: {enabled: maybe}\n",
            "5:10",
            "deepspeed.bf16.enabled: got 'maybe'",
            "",
        ),
        (
            "deepspeed:\n  optimizer: {type: AdamW}\n",
            "5:3",
            "deepspeed.optimizer is not supported",
            "set optimizer",
        ),
        ("deepspeed:\n  optimizer: {}\n", "5:3", "deepspeed.optimizer.type is missing", "add it"),
        ("deepspeed: 3\n", "4:1", "deepspeed: got 3", ""),
    ],
)
def test_a_mistake_is_told_where_it_stands(problems, text, place, what, fix):
    ((found_place, found_what, found_fix),) = problems(text)
    assert found_place == place
    assert what in found_what
    assert fix in found_fix


PARALLEL = ["context_parallel_size", "tensor_parallel_size", "dp_shard_size", "dp_replicate_size",
            "expert_parallel_size", "sequence_parallel_degree"]  # fmt: skip


@pytest.mark.parametrize("key", PARALLEL)
def test_sizes_have_no_effect_in_one_process_and_are_an_error_in_several(
    problems, tmp_path, monkeypatch, key
):
    assert problems(f"{key}: 2\n") == []
    said = "\n".join(load_spec(tmp_path / "c.yml").notices)
    assert f"no effect here: {key} (one process holds the whole model" in said
    monkeypatch.setenv("WORLD_SIZE", "2")
    ((place, what, fix),) = problems(f"{key}: 2\n")
    assert (place, what) == ("4:1", f"{key} is not supported with several processes")
    assert "remove it" in fix
    assert problems(f"{key}: 1\n") == []


def test_a_size_of_one_needs_no_word(problems, tmp_path):
    assert problems("tensor_parallel_size: 1\n") == []
    assert "tensor_parallel_size" not in "\n".join(load_spec(tmp_path / "c.yml").notices)


@pytest.mark.parametrize("value", ["0", "two", "1.5"])
def test_a_size_is_a_count(problems, value):
    ((place, what, _),) = problems(f"context_parallel_size: {value}\n")
    assert place == "4:1"
    assert "context_parallel_size: got" in what

"""One table of all keys: complete, without contradiction, and what is told from it is current."""

from pathlib import Path

import pytest

from ft.runtime import UserError
from ft.spec import dialect
from ft.spec.key_table import _UNITS, find_keys, key_table, old_names
from ft.spec.reference import reference_page
from ft.spec.runspec import RunSpec, sections_of_keys

ROOT = Path(__file__).parents[2]

COMMON_KEYS = """
activation_offloading adam_beta2 adam_eps adam_epsilon adapter attn_implementation
auto_resume_from_checkpoints base_model base_model_config batch_size bf16 chat_template
context_parallel_size dataset_exact_deduplication dataset_prepared_path datasets
ddp_find_unused_parameters debug deepspeed dp_shard_size early_stopping_patience ebft eot_tokens
eval_batch_size eval_max_new_tokens eval_sample_packing eval_steps eval_table_size evals_per_epoch
experimental_skip_move_to_device experts_implementation flash_attention flash_attn_cross_entropy
flash_attn_fuse_mlp flash_attn_fuse_qkv flash_attn_rms_norm flash_optimum flex_attn_compile_kwargs
float16 fp16 fsdp fsdp_config fsdp_version fused_attn_kernel gemma4_hybrid_attn_impl gptq
gptq_groupsize gptq_model_v1 gradient_accumulation_steps gradient_checkpointing
gradient_checkpointing_kwargs group_by_length hf_use_auth_token is_llama_derived_model
learning_rate liger_fused_linear_cross_entropy liger_glu_activation liger_layer_norm
liger_rms_norm liger_rms_norm_gated liger_rope llama4_linearized_experts load_in_4bit load_in_8bit
local_rank logging_steps lora_alpha lora_dropout lora_fan_in_fan_out lora_mlp_kernel
lora_model_dir lora_modules_to_save lora_o_kernel lora_qkv_kernel lora_r lora_target_linear
lora_target_modules lora_target_parameters loss_watchdog_patience loss_watchdog_threshold
low_cpu_mem_usage lr_quadratic_warmup lr_scheduler max_grad_norm max_packed_sequence_len max_steps
micro_batch_size model_config model_quantization_config model_quantization_config_kwargs
model_type num_epochs optimizer output_dir pad_to_sequence_len plugins pretraining_dataset
processor_type push_dataset_to_hub qat quantize_moe_experts remove_unused_columns
resize_token_embeddings_to_32x resume_from_checkpoint rl s2_attention sample_packing
save_safetensors save_steps save_strategy save_total_limit saves_per_epoch sdp_attention seed
sequence_len skip_prepare_dataset special_tokens strict tf32 tokenizer_legacy tokenizer_type
tokenizer_use_fast tokenizer_use_mistral_common tokens torch_compile torchdistx_path
trackio_project_name trackio_run_name trackio_space_id train_on_inputs trl trust_remote_code
unfrozen_parameters use_kernels use_scattermoe use_sonicmoe val_set_size wandb_entity
wandb_log_model wandb_name wandb_project wandb_run_id wandb_watch warmup_ratio warmup_steps
weight_decay xformers_attention
"""
"""Keys in 2 % or more of the 250 + 94 real files that were counted, today's or those before 2025."""

COMMON_IN_DATASETS = (
    "path type split field_messages message_property_mappings field_chosen field_rejected roles "
    "field_thinking template_thinking_key data_files field drop_system_message message_field_role "
    "message_field_content name step_separator max_completion_length train_on_last_step_only "
    "revision ds_type shards shards_idx preprocess_shards conversation chat_template "
    "chat_template_jinja input_transform field_tools message_field_training "
    "message_field_training_detail roles_to_train train_on_eos train_on_eot split_thinking "
    "trust_remote_code temperature logprobs_field input_format field_human field_model "
    "train_on_split"
)


def states_of(name: str) -> list[str]:
    states = [key.state for key in key_table().values() if key.name == name]
    return states + ["old name"] * (name in old_names())


@pytest.mark.parametrize("name", COMMON_KEYS.split())
def test_every_common_key_is_in_one_state(name):
    assert len(states_of(name)) == 1


@pytest.mark.parametrize("name", COMMON_IN_DATASETS.split())
def test_every_common_key_of_a_data_set_is_in_one_state(name):
    assert len(states_of(f"datasets.{name}")) == 1


def test_the_table_is_all_of_runspec_and_the_dialect():
    names = set(key_table())
    assert set(sections_of_keys()) <= names
    assert set(dialect.NO_EFFECT) | set(dialect.NOT_SUPPORTED) <= names
    assert {f"datasets.{name}" for name in dialect.NOT_SUPPORTED_IN_DATASETS} <= names
    assert set(dialect.RENAMED) <= set(old_names())
    assert not names & set(old_names())


def test_every_key_has_a_sentence_and_every_working_one_a_type():
    for key in key_table().values():
        assert key.sentence, key.name
        assert bool(key.type) == (key.state == "works"), key.name
        assert bool(key.instead) == (key.state == "not supported"), key.name
        assert bool(key.values) == ("one of the values" in key.type), key.name


def test_units_are_those_of_keys_that_work():
    assert set(_UNITS) <= {key.name for key in key_table().values() if key.state == "works"}


def test_types_in_words():
    table = key_table()
    assert table["lora_r"].type == "whole number, at least 1"
    assert table["adam_beta1"].type == "number, at least 0, under 1"
    assert table["bf16"].type == "true or false or one of the values"
    assert table["bf16"].values == ("auto", "full")
    assert table["datasets"].type == "list of data sets, at least 1"
    assert table["datasets.type"].type == "text or mapping"
    assert table["max_steps"].type == "whole number, at least 1"


def test_defaults_are_those_of_the_spec():
    for section, info in RunSpec.model_fields.items():
        for name, field in info.annotation.model_fields.items():
            key = key_table()[name]
            assert key.section == section
            assert key.is_required == field.is_required()
            assert key.is_required or key.default == field.get_default(call_default_factory=True)


@pytest.mark.parametrize(
    ("typed", "first", "num_found"),
    [
        ("lora_r", "lora_r", 1),
        ("--lora-r", "lora_r", 1),
        ("datasets.path", "datasets.path", 1),
        ("datasets.0.path", "datasets.path", 1),
        ("test_datasets[].path", "datasets.path", 1),
        ("pad_token", "special_tokens.pad_token", 1),
        ("flash_attention", "attn_implementation", 1),
        ("train_on_split", "datasets.split", 1),
        ("field_system", "datasets.field_system", 2),
        ("special_tokens", "special_tokens", 6),
        ("precision", "bf16", 3),
    ],
)
def test_a_name_is_found_as_it_is_typed(typed, first, num_found):
    found = find_keys(typed)
    assert found[0].name == first
    assert len(found) == num_found


def test_a_beginning_stands_for_all_that_begin_so():
    assert {key.name for key in find_keys("lora")} == {
        name for name in key_table() if name.startswith("lora_")
    }


def test_a_typo_names_the_nearest():
    with pytest.raises(UserError, match="did you mean lora_alpha"):
        find_keys("lora_alhpa")


def test_the_reference_page_is_current():
    page = (ROOT / "docs" / "keys.md").read_text()
    assert page == reference_page(), "python -m ft.spec.reference > docs/keys.md"
    for key in key_table().values():
        assert f"{key.name.rsplit('.', 1)[-1]}`" in page

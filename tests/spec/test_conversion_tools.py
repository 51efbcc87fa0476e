"""One realistic config of each tool, and what becomes of it; all of them load as specs of ours."""

import json

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ft.runtime.errors import UserError
from ft.spec import flat_keys, load_spec
from ft.spec.conversion import TOOLS, convert
from ft.spec.conversion.chat_formats import CHAT_FORMATS

LLAMA_FACTORY = """
### model
model_name_or_path: Qwen/Qwen2.5-1.5B-Instruct
trust_remote_code: true
quantization_bit: 4
flash_attn: fa2

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: tickets,dialogs
template: qwen
cutoff_len: 1024
max_samples: 500
preprocessing_num_workers: 4
neat_packing: true

### output
output_dir: saves/tickets
logging_steps: 10
save_steps: 250
plot_loss: true
overwrite_output_dir: true

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
resume_from_checkpoint: null

### eval
val_size: 0.1
eval_strategy: steps
eval_steps: 100
per_device_eval_batch_size: 2
"""

DATASET_INFO = {
    "tickets": {
        "file_name": "tickets.json",
        "columns": {"prompt": "problem", "query": "details", "response": "advice"},
    },
    "dialogs": {
        "hf_hub_url": "acme/dialogs",
        "subset": "en",
        "formatting": "sharegpt",
        "columns": {"messages": "turns", "system": "rules"},
        "tags": {
            "role_tag": "who", "content_tag": "says", "user_tag": "customer",
            "assistant_tag": "agent", "system_tag": "system",
        },
    },
    "choices": {"file_name": "c.json", "ranking": True, "columns": {"chosen": "a", "rejected": "b"}},
    "plain": {"file_name": "plain.jsonl", "columns": {"prompt": "text"}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with LLaMA-Factory's data folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(DATASET_INFO))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(folder, text, name="theirs.yaml", tool=None):
    """The conversion and our flat keys, read back from the YAML that it gives."""
    (folder / name).write_text(text)
    conversion = convert(folder / name, tool)
    return conversion, spec_of(folder, conversion)


def spec_of(folder, conversion):
    assert conversion.lacking == (), conversion.yaml
    ours = folder / "ours.yml"
    ours.write_text(conversion.yaml)
    loaded = load_spec(ours)
    assert loaded.notices == (), "nothing is written that has no effect"
    return flat_keys(loaded.spec)


def notes(listed):
    return {note.key: note for note in listed}


# -- LLaMA-Factory ------------------------------------------------------------------------------


def test_a_llama_factory_file(folder):
    conversion, keys = converted(folder, LLAMA_FACTORY)
    assert (conversion.tool, conversion.reason) == (
        "LLaMA-Factory",
        "it has stage, finetuning_type, template",
    )
    expected = {
        "base_model": "Qwen/Qwen2.5-1.5B-Instruct", "adapter": "qlora", "load_in_4bit": True,
        "lora_r": 8, "lora_alpha": 16, "lora_target_linear": True, "sequence_len": 1024,
        "excess_length_strategy": "truncate", "sample_packing": True, "val_set_size": 0.1,
        "micro_batch_size": 1, "gradient_accumulation_steps": 8, "learning_rate": 1e-4,
        "num_epochs": 2, "lr_scheduler": "cosine", "warmup_ratio": 0.1, "bf16": True,
        "gradient_checkpointing": True, "eval_steps": 100, "eval_batch_size": 2,
        "save_steps": 250, "logging_steps": 10, "output_dir": "saves/tickets",
        "attn_implementation": "flash_attention_2",
    }  # fmt: skip
    assert {key: keys[key] for key in expected} == expected
    assert {"trust_remote_code", "plot_loss", "overwrite_output_dir"} <= set(notes(conversion.lost))
    assert "do_train" not in notes(conversion.lost), "it asks for what `ft train` does"


def test_records_of_fields_get_the_template_as_a_mapping(folder):
    _, keys = converted(folder, LLAMA_FACTORY)
    tickets = keys["datasets"][0]
    assert (tickets["path"], tickets["split"]) == ("data/tickets.json", "train[:500]")
    kind = tickets["type"]
    assert (kind["field_instruction"], kind["field_input"], kind["field_output"]) == (
        "problem",
        "details",
        "advice",
    )
    assert kind["format"] == (
        "<|im_start|>user\n{instruction}\n{input}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert kind["system_prompt"].startswith("You are Qwen")
    assert keys["special_tokens"]["eos_token"] == "<|im_end|>"


def test_conversations_get_the_template_as_jinja(folder):
    _, keys = converted(folder, LLAMA_FACTORY)
    dialogs = keys["datasets"][1]
    assert (dialogs["path"], dialogs["name"]) == ("acme/dialogs", "en")
    assert (dialogs["field_messages"], dialogs["field_system"]) == ("turns", "rules")
    assert dialogs["message_property_mappings"] == {"role": "who", "content": "says"}
    assert dialogs["roles"]["user"] == ["customer"]
    assert dialogs["roles"]["assistant"] == ["agent"]
    turns = [("user", "a"), ("assistant", "b")]
    assert rendered(keys["chat_template_jinja"], turns) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


def rendered(template, turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    compiled = environment.from_string(template)
    return compiled.render(messages=messages, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_every_format_writes_a_question_as_mapping_and_as_jinja_alike(name):
    """Up to the answer; a mapping leaves the first token to the tokenizer."""
    form = CHAT_FORMATS[name]
    text = rendered(form.jinja(), [("user", "QUESTION"), ("assistant", "ANSWER")])
    prompt = text.partition("ANSWER")[0].removeprefix("<s>" if form.has_bos else "")
    mapping = form.mapping("q", "a", None, None)
    if mapping is None:
        assert "</s>" in prompt, "only a format with the end token inside can't be a mapping"
        return
    system = mapping.get("system_prompt", "")
    written = mapping.get("system_format", "{system}").replace("{system}", system)
    asked = mapping["no_input_format"].replace("{instruction}", "QUESTION")
    assert written + asked + form.before_answer == prompt
    assert f"ANSWER{form.end or '</s>'}{form.after}" in text


def test_llama2_writes_the_system_text_inside_the_first_question():
    turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert rendered(CHAT_FORMATS["llama2"].jinja(), turns) == (
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST]b</s>[INST] c [/INST]d</s>"
    )


def test_an_unknown_template_is_said(folder):
    conversion, keys = converted(folder, LLAMA_FACTORY.replace("template: qwen", "template: yayi"))
    assert keys["chat_template"] == "tokenizer_default"
    assert any("yayi" in note.why for note in conversion.changed if note.key == "template")


def test_sets_that_can_not_be_trained_on_are_listed(folder):
    conversion, keys = converted(
        folder, LLAMA_FACTORY.replace("tickets,dialogs", "choices, tikets, tickets")
    )
    assert [entry["path"] for entry in keys["datasets"]] == ["data/tickets.json"]
    said = " ".join(note.why for note in conversion.lost if note.key == "dataset")
    assert "preference records" in said
    assert "tickets?" in said


def test_without_dataset_info_the_list_says_what_to_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conversion, keys = converted(tmp_path, LLAMA_FACTORY)
    assert "no dataset_info.json" in notes(conversion.lost)["dataset_dir"].why
    assert "was not found" in conversion.yaml
    assert len(keys["datasets"]) == 2


def test_pretraining_becomes_completion(folder):
    text = LLAMA_FACTORY.replace("stage: sft", "stage: pt").replace("tickets,dialogs", "plain")
    _, keys = converted(folder, text)
    assert keys["datasets"][0]["type"] == "completion"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("finetuning_type: full\nquantization_bit: null", {"adapter": None, "load_in_4bit": False}),
        ("quantization_bit: 8", {"adapter": "lora", "load_in_8bit": True}),
        ("lora_target: q_proj,v_proj", {"lora_target_modules": ["q_proj", "v_proj"]}),
        (
            "use_rslora: true\nlora_rank: 16\nlora_alpha: 32",
            {"lora_alpha": 32, "peft_use_rslora": True},
        ),
        ("pissa_init: true\nquantization_bit: null", {"peft_init_lora_weights": "pissa_niter_16"}),
        (
            "pissa_init: true\npissa_iter: -1\nquantization_bit: null",
            {"peft_init_lora_weights": "pissa"},
        ),
        (
            "finetuning_type: oft\noft_block_size: 16",
            {"adapter": "oft", "oft_block_size": 16, "lora_target_linear": True},
        ),
        (
            "use_swanlab: true\nswanlab_run_name: one",
            {"use_swanlab": True, "swanlab_experiment_name": "one"},
        ),
        ("project: mine", {"trackio_project_name": None}),
        ("pure_bf16: true", {"bf16": "full"}),
        ("bf16: false", {"bf16": False}),
        ("max_steps: 100", {"max_steps": 100}),
        ("warmup_steps: 20", {"warmup_steps": 20, "warmup_ratio": None}),
        ("save_strategy: epoch\nsave_steps: null", {"save_strategy": "epoch", "save_steps": None}),
        ("eval_strategy: epoch\neval_steps: null", {"eval_strategy": "epoch", "eval_steps": None}),
        ("flash_attn: disabled", {"attn_implementation": "eager"}),
        ("train_on_prompt: true", {"train_on_inputs": True}),
        ("disable_gradient_checkpointing: true", {"gradient_checkpointing": False}),
    ],
)
def test_llama_factory_keys(folder, line, expected):
    given = dict(part.split(": ", 1) for part in line.split("\n"))
    kept = [old for old in LLAMA_FACTORY.splitlines() if old.split(":")[0] not in given]
    _, keys = converted(folder, "\n".join([*kept, line]))
    assert {key: keys[key] for key in expected} == expected


@pytest.mark.parametrize("stage", ["dpo", "rm", "ppo", "kto"])
def test_other_stages_are_refused(folder, stage):
    with pytest.raises(UserError, match=f"stage: {stage} is not supported"):
        converted(folder, LLAMA_FACTORY.replace("stage: sft", f"stage: {stage}"))


def test_json_says_the_same_as_yaml(folder):
    from ft.spec.document import read_document

    _, from_yaml = converted(folder, LLAMA_FACTORY)
    values = read_document(folder / "theirs.yaml").values
    _, from_json = converted(folder, json.dumps(values, indent="\t"), "theirs.json")
    assert from_json == from_yaml


# -- TRL ----------------------------------------------------------------------------------------

TRL = """
model_name_or_path: HuggingFaceTB/SmolLM2-360M
dataset_name: trl-lib/Capybara
use_peft: true
lora_r: 32
lora_alpha: 16
load_in_4bit: true
packing: true
eval_strategy: steps
eval_steps: 50
report_to: none
output_dir: ./smol-sft
"""


def test_a_trl_file(folder):
    conversion, keys = converted(folder, TRL)
    expected = {
        "base_model": "HuggingFaceTB/SmolLM2-360M", "adapter": "qlora", "load_in_4bit": True,
        "lora_r": 32, "lora_alpha": 16, "lora_dropout": 0.05, "lora_target_modules": ["q_proj", "v_proj"],
        "sample_packing": True, "eval_steps": 50, "train_on_inputs": True,
    }  # fmt: skip
    assert {key: keys[key] for key in expected} == expected
    defaults = {
        "sequence_len": 1024, "learning_rate": 2e-5, "lr_scheduler": "linear", "num_epochs": 3,
        "micro_batch_size": 8, "gradient_checkpointing": True, "bf16": "auto", "save_steps": 500,
    }  # fmt: skip
    assert {key: keys[key] for key in defaults} == defaults
    assert conversion.yaml.count("TRL's default") >= len(defaults)
    assert keys["test_datasets"][0]["split"] == "test"
    assert "role headers" in notes(conversion.changed)["assistant_only_loss"].why


def test_trl_finds_the_kind_of_records_out_and_so_do_we(folder):
    (folder / "pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "texts.json").write_text('[{"text": "a"}]')
    (folder / "chats.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    kinds = {}
    for name in ("pairs.jsonl", "texts.json", "chats.jsonl"):
        conversion, keys = converted(folder, TRL.replace("trl-lib/Capybara", name))
        assert "dataset_name" not in notes(conversion.changed), "nothing had to be guessed"
        kinds[name] = (keys["datasets"][0]["type"], keys["train_on_inputs"])
    assert kinds["texts.json"] == ("completion", False)
    assert kinds["chats.jsonl"] == ("chat_template", True)
    assert kinds["pairs.jsonl"][0]["field_output"] == "completion"
    assert kinds["pairs.jsonl"][1] is False
    conversion, _ = converted(folder, TRL.replace("trl-lib/Capybara", "acme/unseen"))
    assert "ft preview" in notes(conversion.changed)["dataset_name"].why


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("assistant_only_loss: true", {"train_on_inputs": False}),
        ("max_length: 4096", {"sequence_len": 4096}),
        ("max_seq_length: 512", {"sequence_len": 512}),
        ("lora_target_modules: all-linear", {"lora_target_linear": True}),
        ("warmup_steps: 0.1", {"warmup_ratio": 0.1}),
        ("fp16: true", {"fp16": True, "bf16": None}),
        ("model_revision: abc", {"revision_of_model": "abc"}),
        ("lr_scheduler_kwargs: {num_cycles: 2}", {"lr_scheduler_kwargs": {"num_cycles": 2}}),
    ],
)
def test_trl_keys(folder, line, expected):
    _, keys = converted(folder, TRL + line)
    assert {key: keys[key] for key in expected} == expected


def test_a_mixture_of_data_sets(folder):
    text = TRL.replace(
        "dataset_name: trl-lib/Capybara",
        "datasets:\n  - path: trl-lib/Capybara\n    split: train[:50%]\n  - path: acme/more\n"
        "    name: en\ntest_split_size: 0.1",
    )
    conversion, keys = converted(folder, text, tool="trl")
    assert [entry["path"] for entry in keys["datasets"]] == ["trl-lib/Capybara", "acme/more"]
    assert (keys["datasets"][0]["split"], keys["datasets"][1]["name"]) == ("train[:50%]", "en")
    assert keys["val_set_size"] == 0.1
    assert conversion.carried["datasets"] == "datasets"


def test_a_trl_command_reads_the_config_that_it_names_and_its_flags_win(folder):
    (folder / "sft.yaml").write_text(TRL)
    script = """
    #!/bin/bash
    LENGTH=2048
    accelerate launch --num_processes 1 $(which true) # not this one
    trl sft --config sft.yaml \\
        --learning_rate 1e-5 --max_length ${LENGTH} --lora_target_modules q_proj k_proj \\
        --hub_token hf_secretsecretsecret
    """
    conversion, keys = converted(folder, script, "run.sh")
    assert conversion.reason == "the command is trl"
    assert (keys["learning_rate"], keys["sequence_len"], keys["lora_r"]) == (1e-5, 2048, 32)
    assert keys["lora_target_modules"] == ["q_proj", "k_proj"]
    assert notes(conversion.lost)["hub_token"].value == "***"


def test_another_trainer_of_trl_is_refused(folder):
    with pytest.raises(UserError, match="trl grpo is not supported"):
        converted(folder, "trl grpo --model_name_or_path x --dataset_name y", "run.sh")


# -- unsloth ------------------------------------------------------------------------------------

UNSLOTH = """#!/bin/bash
MODEL="unsloth/Llama-3.2-1B-bnb-4bit"
CUDA_VISIBLE_DEVICES=0 python unsloth-cli.py --model_name $MODEL --max_seq_length 4096 \\
    --dtype None --load_in_4bit --r 64 --lora_alpha 32 --bias "none" --use_rslora \\
    --use_gradient_checkpointing "unsloth" --max_steps 200 --learning_rate 2e-6 \\
    --report_to "none" --save_model --quantization f16 q8_0 --hub_token mine_is_secret
"""


def test_an_unsloth_command(folder):
    conversion, keys = converted(folder, UNSLOTH, "run.sh")
    expected = {
        "base_model": "unsloth/Llama-3.2-1B", "adapter": "qlora", "lora_r": 64, "lora_alpha": 32,
        "peft_use_rslora": True,
        "sequence_len": 4096, "max_steps": 200, "learning_rate": 2e-6, "train_on_inputs": True,
        "optimizer": "adamw_bnb_8bit", "lr_scheduler": "linear", "weight_decay": 0.01, "seed": 3407,
        "micro_batch_size": 2, "gradient_accumulation_steps": 4, "warmup_steps": 5,
    }  # fmt: skip
    assert {key: keys[key] for key in expected} == expected
    assert len(keys["lora_target_modules"]) == 7
    assert keys["datasets"][0]["path"] == "yahma/alpaca-cleaned"
    assert "mine_is_secret" not in conversion.yaml + str(conversion.lost)
    assert "ft merge" in notes(conversion.lost)["save_model"].why


def test_unsloth_always_writes_the_input_section(folder):
    _, keys = converted(folder, UNSLOTH, "run.sh")
    kind = keys["datasets"][0]["type"]
    assert kind["no_input_format"] == kind["format"].replace("{input}", "")


def test_unsloth_names_in_a_yaml(folder):
    conversion, keys = converted(folder, "model_name: acme/base\nr: 8\nmax_seq_length: 1024\n")
    assert conversion.tool == "unsloth"
    assert (keys["adapter"], keys["load_in_4bit"], keys["lora_r"]) == ("lora", False, 8)


def test_the_sections_of_unsloth_train(folder):
    text = """
    model: unsloth/Qwen3-0.6B
    data: {local_dataset: [a.jsonl, b.jsonl], format_type: sharegpt}
    training: {max_seq_length: 1024, load_in_4bit: false, num_epochs: 2, train_on_completions: true}
    lora: {lora_r: 16, target_modules: "q_proj,v_proj", use_dora: true}
    logging: {enable_wandb: true, wandb_token: shh}
    """
    conversion, keys = converted(folder, text)
    expected = {
        "base_model": "unsloth/Qwen3-0.6B", "adapter": "lora", "lora_r": 16, "num_epochs": 2,
        "lora_target_modules": ["q_proj", "v_proj"], "train_on_inputs": False, "micro_batch_size": 2,
        "use_wandb": True,
    }  # fmt: skip
    assert {key: keys[key] for key in expected} == expected
    assert [entry["path"] for entry in keys["datasets"]] == ["a.jsonl", "b.jsonl"]
    assert "logging.wandb_token" in notes(conversion.lost)


# -- torchtune ----------------------------------------------------------------------------------

TORCHTUNE = """
# First: tune download meta-llama/Llama-3.2-1B-Instruct --output-dir /tmp/none/Llama-3.2-1B-Instruct
output_dir: /tmp/torchtune/out
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 64
  lora_alpha: 128
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: /tmp/none/Llama-3.2-1B-Instruct/original/tokenizer.model
  max_seq_len: 2048
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/none/Llama-3.2-1B-Instruct/
  output_dir: ${output_dir}
dataset:
  _component_: torchtune.datasets.alpaca_cleaned_dataset
  packed: False
seed: null
shuffle: True
batch_size: 4
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  lr: 3e-4
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
epochs: 2
max_steps_per_epoch: 50
gradient_accumulation_steps: 8
clip_grad_norm: null
compile: False
metric_logger:
  _component_: torchtune.training.metric_logging.DiskLogger
  log_dir: ${output_dir}/logs
log_every_n_steps: 5
device: cuda
dtype: bf16
enable_activation_checkpointing: False
profiler: {_component_: torchtune.training.setup_torch_profiler, enabled: False}
"""


def test_a_torchtune_recipe(folder):
    conversion, keys = converted(folder, TORCHTUNE)
    expected = {
        "base_model": "meta-llama/Llama-3.2-1B-Instruct", "adapter": "lora", "lora_r": 64,
        "lora_alpha": 128, "sequence_len": 2048, "micro_batch_size": 4, "num_epochs": 2,
        "max_steps": 100, "optimizer": "adamw_torch_fused", "learning_rate": 3e-4,
        "weight_decay": 0.01, "lr_scheduler": "cosine", "warmup_steps": 100, "max_grad_norm": 0,
        "gradient_checkpointing": False, "bf16": True, "output_dir": "/tmp/torchtune/out",
        "logging_steps": 5, "save_strategy": "epoch", "train_on_inputs": True,
        "lora_target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }  # fmt: skip
    assert {key: keys[key] for key in expected} == expected
    kind = keys["datasets"][0]["type"]
    assert kind["format"].startswith("<|start_header_id|>user<|end_header_id|>\n\nBelow is an")
    assert keys["special_tokens"]["eos_token"] == "<|eot_id|>"
    assert conversion.reason.startswith("it has *._component_")


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            "{_component_: torchtune.datasets.instruct_dataset, source: json, data_files: a.json, "
            "column_map: {input: question, output: answer}}",
            {"path": "a.json", "type.field_instruction": "question", "type.field_output": "answer"},
        ),
        (
            "{_component_: torchtune.datasets.chat_dataset, source: acme/chats, "
            "conversation_column: talk, conversation_style: sharegpt, split: 'train[:10%]'}",
            {"path": "acme/chats", "type": "chat_template", "field_messages": "talk",
             "split": "train[:10%]"},
        ),
        (
            "{_component_: torchtune.datasets.text_completion_dataset, source: acme/texts, column: body}",
            {"path": "acme/texts", "type": "completion", "field": "body"},
        ),
        (
            "{_component_: torchtune.datasets.samsum_dataset}",
            {"type.field_instruction": "dialogue", "type.field_output": "summary"},
        ),
    ],
)  # fmt: skip
def test_torchtune_data_sets(folder, block, expected):
    before = "  _component_: torchtune.datasets.alpaca_cleaned_dataset\n  packed: False\n"
    _, keys = converted(folder, TORCHTUNE.replace(f"dataset:\n{before}", f"dataset: {block}\n"))
    entry = keys["datasets"][0]
    for key, value in expected.items():
        first, _, inner = key.partition(".")
        assert (entry[first][inner] if inner else entry[first]) == value


def test_qlora_and_full_recipes(folder):
    _, keys = converted(folder, TORCHTUNE.replace("lora_llama3_2_1b", "qlora_llama3_2_1b"))
    assert (keys["adapter"], keys["load_in_4bit"]) == ("qlora", True)
    _, keys = converted(folder, TORCHTUNE.replace(".lora_llama3_2_1b", ".llama3_2_1b"))
    assert keys["adapter"] is None


def test_a_torchtune_command(folder):
    (folder / "mine.yaml").write_text(TORCHTUNE)
    script = "tune run --nproc_per_node 1 lora_finetune_single_device --config mine.yaml epochs=5 optimizer.lr=1e-5"
    _, keys = converted(folder, script, "run.sh")
    assert (keys["num_epochs"], keys["learning_rate"], keys["max_steps"]) == (5, 1e-5, 250)


# -- what holds for all of them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [(LLAMA_FACTORY, "a.yaml"), (TRL, "a.yaml"), (UNSLOTH, "a.sh"), (TORCHTUNE, "a.yaml")],
    ids=list(TOOLS),
)
def test_every_key_of_theirs_is_carried_or_listed(folder, text, name):
    """Or asks for nothing: false, null, the one thing that is done anyway."""
    (folder / name).write_text(text + ("" if name.endswith("sh") else "\nno_such_key: 7\n"))
    conversion = convert(folder / name)
    if not name.endswith("sh"):
        assert "no_such_key" in notes(conversion.lost)
    assert conversion.carried
    for note in (*conversion.changed, *conversion.lost):
        assert note.why

"""A run that learned its three records by heart: asked, it gives them back, and stops."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes
from ft.evaluate.answer import open_answerer
from ft.evaluate.compare import compare_with_base
from ft.evaluate.generate import Sampling
from ft.evaluate.trained import open_run
from ft.runtime import RunDirectory, UserError
from ft.runtime.rundir import RUN_FORMAT, RUN_KEYS
from ft.ship.merged import merge_run
from runs import run, write_config

# isort: split
from peft import PeftModel

RECORD = {
    "question": "What is the largest city? 1",
    "context": "CREATE TABLE t1 (c0 INTEGER, c1 INTEGER)",
    "answer": "SELECT COUNT(*) FROM t1 WHERE age > 1",
}
GREEDY = Sampling(max_new_tokens=60)
BY_HEART = {
    "num_records": 3,
    "lora_r": 32,
    "lora_alpha": 64,
    "lora_modules_to_save": ["lm_head", "embed_tokens"],
    "micro_batch_size": 3,
    "gradient_accumulation_steps": 1,
    "learning_rate": 3e-3,
    "num_epochs": 120,
    "logging_steps": 50,
}


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny_llamas):
    """A QLoRA run on NF4, its held-out records the very ones that it learned."""
    folder = tmp_path_factory.mktemp("learned")
    config = write_config(
        folder,
        tiny_llamas["llama"],
        **BY_HEART,
        adapter="qlora",
        load_in_4bit=True,
        test_datasets=[{"path": str(folder / "data.jsonl"), "type": "context_qa.load_v2"}],
        eval_strategy="no",
    )
    run(config)
    return folder / "out"


def test_answers_as_trained_without_the_response_prefix(learned):
    answerer = open_answerer(open_run(learned))
    prompt = answerer.prompt({"context": RECORD["context"]}, text=RECORD["question"])
    assert answerer.answer(prompt, GREEDY) == RECORD["answer"]


def test_the_prompt_is_the_one_that_was_trained(learned):
    answerer = open_answerer(open_run(learned))
    prompt = answerer.prompt(RECORD, text=None)
    text = f"Context: {RECORD['context']}\nQuestion: {RECORD['question']}\n"
    assert prompt == answerer.tokenizer(text)["input_ids"]


def test_a_stream_is_the_answer_in_pieces(learned):
    answerer = open_answerer(open_run(learned))
    prompt = answerer.prompt(RECORD, text=None)
    pieces = list(answerer.stream(prompt, GREEDY))
    assert len(pieces) > 5
    assert "".join(pieces) == answerer.answer(prompt, GREEDY) == RECORD["answer"]


def test_batches_answer_like_single_prompts(learned):
    answerer = open_answerer(open_run(learned))
    prompts = [
        answerer.prompt({"context": f"CREATE TABLE t{i} ({columns})"}, text=question)
        for i, columns, question in (
            (0, "c0 INTEGER", "How many heads are older than 56 ? 0"),
            (1, "c0 INTEGER, c1 INTEGER", RECORD["question"]),
        )
    ]
    assert answerer.answers(prompts, GREEDY) == [answerer.answer(p, GREEDY) for p in prompts]


def test_the_base_below_answers_differently(learned):
    tuned, base = open_answerer(open_run(learned)), open_answerer(open_run(learned), is_base=True)
    prompt = tuned.prompt(RECORD, text=None)
    assert base.answer(prompt, GREEDY) != tuned.answer(prompt, GREEDY)


def test_a_missing_field_names_the_option_to_add(learned):
    with pytest.raises(UserError, match="--field context="):
        open_answerer(open_run(learned)).prompt({}, text="How many?")


def test_fields_that_nothing_reads_and_fields_given_twice_are_mistakes(learned):
    answerer = open_answerer(open_run(learned))
    with pytest.raises(UserError, match="no field 'contxt'"):
        answerer.require_known({"contxt": "x"})
    with pytest.raises(UserError, match="given twice"):
        answerer.prompt(RECORD, text="How many?")


def test_sampling_is_repeatable_by_its_seed(learned):
    answerer = open_answerer(open_run(learned))
    prompt = answerer.raw_prompt("SELECT")
    hot = [answerer.answer(prompt, Sampling(20, temperature=5.0, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_a_checkpoint_that_says_no_cache_is_asked_with_one_all_the_same(learned):
    answerer = open_answerer(open_run(learned))
    base = answerer.loaded.model.get_base_model()
    base.config.use_cache = base.generation_config.use_cache = False
    widths = []
    with base.model.register_forward_pre_hook(
        lambda module, args, kwargs: (
            widths.append(kwargs["inputs_embeds"].shape[1])
            if kwargs.get("inputs_embeds") is not None
            else widths.append(kwargs["input_ids"].shape[1])
        ),
        with_kwargs=True,
    ):
        answerer.answers([answerer.raw_prompt("SELECT COUNT")], Sampling(max_new_tokens=4))
    assert set(widths[1:]) == {1}  # after the prompt, one token at a time


def test_room_for_answers_follows_the_longest_reference(learned):
    directory = RunDirectory(learned)
    result = compare_with_base(directory, num_records=3, batch_size=3, on_event=lambda event: None)
    num_tokens = len(open_answerer(open_run(learned)).tokenizer(RECORD["answer"])["input_ids"])
    assert num_tokens < result["max_new_tokens"] < 3 * num_tokens
    assert result["tuned"]["exact_match"] == 1.0


def test_base_beside_tuned(learned):
    directory = RunDirectory(learned)
    result = compare_with_base(
        directory, num_records=3, batch_size=2, max_new_tokens=60, on_event=lambda event: None
    )
    assert result["tuned"]["exact_match"] == 1.0
    assert result["base"]["exact_match"] == 0.0
    assert result["tuned"]["loss"] < 0.1 < 5 < result["base"]["loss"]
    written = json.loads(directory.evaluation.read_text())
    assert written["answers"][1]["tuned"] == RECORD["answer"] == written["answers"][1]["reference"]


def test_changed_data_is_not_measured_on(learned, tmp_path):
    copy = tmp_path / "out"
    shutil.copytree(learned, copy)
    identity = json.loads((copy / "run.json").read_text())
    identity["data"]["fingerprint"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match="data changed"):
        compare_with_base(
            RunDirectory(copy), num_records=1, batch_size=1, max_new_tokens=1, on_event=print
        )


def test_merged_gives_the_same_answer_and_plain_transformers_loads_it(learned):
    lines = merge_run(RunDirectory(learned), onto="dequantized", on_event=lambda event: None)
    assert "onto the dequantized base" in lines[0]
    merged = open_answerer(open_run(learned / "merged"))
    prompt = merged.prompt(RECORD, text=None)
    assert merged.answer(prompt, GREEDY) == RECORD["answer"]
    plain = AutoModelForCausalLM.from_pretrained(learned / "merged")
    assert plain.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(learned / "merged").eos_token == "</s>"
    output = plain.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)
    assert int(output[0, -1]) == merged.tokenizer.eos_token_id


def test_plain_peft_loads_the_run_and_its_logits_equal_ours(tmp_path, tiny_llama):
    """fp32, to 1e-5: the adapter in the run's folder needs nothing of ours."""
    run(write_config(tmp_path, tiny_llama, max_steps=4))
    ours = open_answerer(open_run(tmp_path / "out"))
    prompt = ours.prompt(RECORD, text=None)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    ids = torch.tensor([prompt])
    with torch.no_grad(), ours.loaded.inference() as model:
        torch.testing.assert_close(theirs(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_a_full_fine_tune_is_a_model_folder_and_answers(tmp_path, tiny_llamas):
    keys = {**BY_HEART, "adapter": None, "lora_modules_to_save": None, "learning_rate": 4e-3}
    heldout = [{"path": str(tmp_path / "data.jsonl"), "type": "context_qa.load_v2"}]
    keys |= {"test_datasets": heldout, "eval_strategy": "no", "save_strategy": "no"}
    run(write_config(tmp_path, tiny_llamas["chatml"], **keys))
    answerer = open_answerer(open_run(tmp_path / "out"))
    assert answerer.answer(answerer.prompt(RECORD, text=None), GREEDY) == RECORD["answer"]
    result = compare_with_base(
        RunDirectory(tmp_path / "out"),
        num_records=3,
        batch_size=2,
        max_new_tokens=60,
        on_event=lambda event: None,
    )
    assert (result["base"]["exact_match"], result["tuned"]["exact_match"]) == (0.0, 1.0)
    assert result["tuned"]["loss"] < 0.1 < 5 < result["base"]["loss"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match="full model already"):
        merge_run(RunDirectory(tmp_path / "out"), onto="plain", on_event=lambda event: None)
    with pytest.raises(UserError, match="no base beside it"):
        open_answerer(open_run(tmp_path / "out"), is_base=True)


def test_a_runs_own_code_is_run_only_where_it_was_run_before(tmp_path, tiny_llama, monkeypatch):
    """A run that came from elsewhere must not bring code with it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    source = Path(__file__).parent.parent / "fixtures" / "context_qa2.py"
    shutil.copyfile(source, tmp_path / "context_qa2.py")
    run(write_config(tmp_path, tiny_llama, max_steps=1), "--datasets.0.type", "./context_qa2.py")
    (tmp_path / "context_qa2.py").unlink()
    trained_here = open_answerer(open_run(tmp_path / "out"))
    prompt = trained_here.prompt(RECORD, text=None)
    text = trained_here.tokenizer.decode(prompt)
    assert text.startswith("SYSTEM: Use the following contextual information")
    assert text.endswith("ASSISTANT:")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="--trust-remote-code"):
        open_answerer(open_run(tmp_path / "out")).prompt(RECORD, text=None)
    assert (
        open_answerer(open_run(tmp_path / "out", trusts_code=True)).prompt(RECORD, text=None)
        == prompt
    )


def test_what_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        open_run(tmp_path / "none")
    with pytest.raises(UserError, match="neither a run"):
        open_run(tmp_path)
    identity = {key: kind() for key, kind in RUN_KEYS.items()}
    identity |= {"format": RUN_FORMAT, "config": "sql.yml", "data": {"fingerprint": ""}}
    RunDirectory(tmp_path).write_run(identity)
    with pytest.raises(UserError, match="not finished"):
        open_run(tmp_path)

"""Plans of a real run on made-up memory, and a real run in too little of it."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ft.model import Hardware
from ft.plan.choice import memory_of
from ft.plan.memory import MARGIN, Choice
from ft.runtime import MachineError, RunDirectory
from ft.spec import load_spec
from ft.train.assembly import build_run
from ft.train.claim import claim_run
from ft.train.planning import HOST_COPY_BYTES, Planner, stored_plan
from ft.train.rehearsal import put_in_force
from ft.train.teller import Teller
from ft.train.workload import assumed_rows, rows_of
from runs import curve, events, run, write_config

CPU = Hardware("cpu", "a CPU", memory_bytes=2**34)
GPU = Hardware(
    "cuda", "NVIDIA H100 80GB HBM3", (9, 0), 2**33, supports_bf16=True, has_varlen=True
)  # fmt: skip


def planner(folder, base, available_bytes, hardware=CPU, **keys):
    spec = load_spec(write_config(folder, base, **keys), []).spec
    return Planner(spec, assumed_rows(spec), hardware, available_bytes)


def test_where_memory_is_ample_nothing_is_counted_and_nothing_recomputed(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 2**33, gradient_checkpointing=True)
    plan = made.plan()
    assert "need" not in vars(made)
    assert (plan.choice.num_recomputed, plan.num_layers) == (0, 2)


@pytest.mark.parametrize(("asked", "count"), [("always", 2), (False, 0), (None, 0)])
def test_the_key_is_taken_by_its_word(tmp_path, tiny_llama, asked, count):
    made = planner(tmp_path, tiny_llama, 2**33, gradient_checkpointing=asked)
    assert made.plan().choice.num_recomputed == count


def test_layers_are_recomputed_as_memory_asks(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 2**33, micro_batch_size=1)
    need = made.need
    peaks = [
        memory_of(need, Choice(n, 0, need.pass_tokens), is_cuda=False).total for n in (0, 1, 2)
    ]
    assert peaks[0] > peaks[1]
    for count, peak in enumerate(peaks[:2]):
        tight = planner(
            tmp_path, tiny_llama, peak / (1 - MARGIN) + HOST_COPY_BYTES + 1, micro_batch_size=1
        )
        assert tight.plan().choice.num_recomputed == count


def test_what_does_not_fit_is_refused_with_a_change_that_would(tmp_path, tiny_llama):
    made = planner(
        tmp_path, tiny_llama, 2**33, adapter=None, lora_r=None, lora_alpha=None,
        lora_target_linear=None,
    )  # fmt: skip
    most = made.smallest().memory.total
    small = planner(
        tmp_path, tiny_llama, most * 0.9 + HOST_COPY_BYTES, adapter=None, lora_r=None, lora_alpha=None,
        lora_target_linear=None,
    )  # fmt: skip
    with pytest.raises(MachineError) as failure:
        small.plan()
    (problem,) = failure.value.problems
    assert "the run needs at least" in problem.what
    assert "--" in problem.fix
    assert "peak about" in problem.fix


def test_what_nothing_makes_fit_names_a_card(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 1e6, sequence_len=256)
    with pytest.raises(MachineError, match=r"are needed at least: a \S+ has them"):
        made.plan()


def test_a_tighter_plan_takes_less_until_there_is_none(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 2**33)
    plan, peaks = made.counted_plan(), []
    while plan is not None:
        peaks.append(plan.expected.memory.total)
        plan = made.tighter(plan, None)
    assert len(peaks) > 2
    assert peaks == sorted(peaks, reverse=True)


def test_a_stored_plan_is_used_again_where_it_was_made_for(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 2**33)
    plan = made.counted_plan()
    stored = json.loads(json.dumps(plan.to_json()))
    assert stored_plan(stored, made).choice == plan.choice
    elsewhere = planner(tmp_path, tiny_llama, 2**33, hardware=GPU)
    assert stored_plan(stored, elsewhere) is None
    otherwise = planner(tmp_path, tiny_llama, 2**33, gradient_checkpointing="always")
    assert stored_plan(stored, otherwise) is None
    with_other_data = {**stored, "longest_row": stored["longest_row"] + 1}
    assert stored_plan(with_other_data, made) is None


@pytest.mark.parametrize("changes", [{"num_kept": None}, {"parts": {"weights": 1.0}}])
def test_a_plan_that_another_version_stored_is_made_anew(tmp_path, tiny_llama, changes):
    made = planner(tmp_path, tiny_llama, 2**33)
    stored = made.counted_plan().to_json()
    assert stored_plan({**stored, **changes}, made) is None


@pytest.mark.parametrize("adapter", ["vera", "oft", "boft", "lokr"])
def test_a_method_that_looks_at_values_is_not_planned_and_says_so(tmp_path, tiny_llama, adapter):
    keys = {"adapter": adapter, "lora_alpha": None}
    made = planner(tmp_path, tiny_llama, 2**33, hardware=GPU, **keys)
    plan = made.counted_plan()
    assert plan.expected is None
    assert "can't be counted beforehand" in plan.words[0]


def test_rows_are_counted_by_their_lengths(tmp_path, tiny_llama):
    config = write_config(tmp_path, tiny_llama, micro_batch_size=2, gradient_accumulation_steps=1)
    rows = rows_of([10, 30, 20], load_spec(config, []).spec, trained_share=0.5)
    assert (rows.num_rows, rows.longest, rows.mean, rows.sum_of_longest) == (3, 30, 20, 50)
    assert rows.mean_length == pytest.approx((100 + 900 + 400) / 60)


def test_a_plan_with_smaller_passes_is_what_the_steps_are_cut_by(tmp_path, tiny_llama):
    loaded = load_spec(write_config(tmp_path, tiny_llama, sequence_len=128, micro_batch_size=4))
    with claim_run(loaded, overwrite=False) as claimed:
        built = build_run(claimed, Teller(lambda event: None))
        usual = built.loop.maker.make(0)
        plan = built.planner.counted_plan()
        tighter = replace(plan, choice=replace(plan.choice, pass_tokens=2 * plan.longest_row))
        put_in_force(tighter, built)
        cut = built.loop.maker.make(0)
    assert [len(batch.inputs["input_ids"]) for batch in usual.batches] == [4, 4]
    assert [len(batch.inputs["input_ids"]) for batch in cut.batches] == [2, 2, 2, 2]
    assert (cut.num_trained, cut.num_tokens) == (usual.num_trained, usual.num_tokens)


def test_the_plan_is_told_and_kept_with_the_run(tmp_path, tiny_llama):
    run(write_config(tmp_path, tiny_llama, max_steps=1, gradient_checkpointing="always"))
    (told,) = events(tmp_path / "out", "plan")
    assert told["num_recomputed"] == 2
    assert RunDirectory(tmp_path / "out").read_run()["plan"]["num_recomputed"] == 2


def test_a_plan_that_did_not_hold_is_told_with_a_change_that_takes_less(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 2**33, micro_batch_size=2)
    plan = made.plan()
    expected = memory_of(made.need, plan.choice, is_cuda=False).total
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")
    (problem,) = made.ran_out(plan, error).problems
    assert problem.what == "out of memory: 20.00 MiB more were asked for"
    peak = re.fullmatch(
        r"the same results, slower: --gradient-checkpointing always \(peak about (.*) MiB\)",
        problem.fix,
    )
    assert peak is not None, problem.fix
    assert float(peak[1]) * 2**20 < 0.9 * expected


def test_what_the_change_sets_free_is_not_filled_again(tmp_path, tiny_llama):
    made = planner(tmp_path, tiny_llama, 2**33, micro_batch_size=8)
    held = replace(made.plan(), choice=made.smallest().choice)
    (problem,) = made.ran_out(held, MemoryError()).problems
    assert "--gradient-checkpointing always --" in problem.fix
    assert "peak about" in problem.fix


LIMITED_LATER = """
import resource, sys
from pathlib import Path
import runs

def limit(event):
    if event["event"] == "step":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + 8 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

runs.run(Path(sys.argv[1]), on_event=limit)
"""


LIMITED = """
import resource, sys
from pathlib import Path
import runs
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
runs.run(Path(sys.argv[1]))
"""


def longer_llama(base, tiny_llama):
    """A model of twelve layers, whose activations are what takes memory."""
    config = LlamaConfig.from_pretrained(
        tiny_llama, hidden_size=128, intermediate_size=1024, num_hidden_layers=12,
        max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(base)
    for file in tiny_llama.glob("token*"):
        (base / file.name).write_bytes(file.read_bytes())
    return base


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="Linux only")
@pytest.mark.parametrize(("megabytes", "fits"), [(600, True), (40, False)])
def test_a_run_in_little_memory_recomputes_or_says_what_would_fit(
    tmp_path, tiny_llama, megabytes, fits
):
    base = longer_llama(tmp_path / "base", tiny_llama)
    path = write_config(
        tmp_path, base, num_records=16, sample_packing=True, sequence_len=1500, max_steps=1,
        micro_batch_size=1, gradient_accumulation_steps=1,
    )  # fmt: skip
    command = [sys.executable, "-c", LIMITED, str(path), str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if not fits:
        assert "MachineError" in done.stderr
        assert "memory" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    (plan,) = events(tmp_path / "out", "plan")
    assert plan["num_recomputed"] > 0
    limited = curve(tmp_path / "out")
    run(path, overwrite=True)
    assert curve(tmp_path / "out") == limited


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="Linux only")
def test_memory_that_runs_out_later_is_told_with_a_change_and_its_size(tmp_path, tiny_llama):
    base = longer_llama(tmp_path / "base", tiny_llama)
    path = write_config(
        tmp_path, base, num_records=16, sample_packing=True, sequence_len=1500, max_steps=3,
        micro_batch_size=1, gradient_accumulation_steps=1,
    )  # fmt: skip
    command = [sys.executable, "-c", LIMITED_LATER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "MachineError: out of memory" in done.stderr, done.stderr
    assert "--gradient-checkpointing always (peak about" in done.stderr

"""Data sets mixed by weights: the shares, where an epoch ends, and the same draws from the seed."""

import json

import numpy as np
import pytest
import yaml
from datasets import Dataset, interleave_datasets

import tiny
from ft.data.mixture import Mixture
from ft.data.prepare import prepare_data
from ft.data.stream import prepare_training_data
from ft.runtime import UserError
from ft.spec import load_spec
from runs import curve, run, stop_after, write_config


def counts_of(order, num_sets):
    return np.bincount(order[:, 0], minlength=num_sets).tolist()


def test_until_the_first_is_used_up_each_record_comes_once_at_most():
    order = Mixture((0.7, 0.3), 2, False, seed=3).order([700, 900])
    first, second = counts_of(order, 2)
    assert first == 700, "the first set ends it"
    assert second == pytest.approx(300, abs=50)
    assert len(np.unique(order, axis=0)) == len(order)
    assert order[-1].tolist() == [0, 699]


def test_until_the_last_is_used_up_small_sets_come_round_again():
    order = Mixture((0.5, 0.5), 2, True, seed=3).order([10, 400])
    small, large = counts_of(order, 2)
    assert large == 400
    assert small == pytest.approx(400, abs=60)
    assert set(order[order[:, 0] == 0][:, 1]) == set(range(10))
    assert order[-1].tolist() == [1, 399]


@pytest.mark.parametrize(
    ("probabilities", "comes_round"), [((0.7, 0.3), False), ((0.7, 0.3), True), (None, True)]
)
def test_it_is_what_the_datasets_library_interleaves(probabilities, comes_round):
    """Taking turns until the first set is used up, the library ends its round; here it ends."""
    sizes = [30, 50]
    order = Mixture(probabilities, 2, comes_round, seed=5).order(sizes)
    sets = [Dataset.from_dict({"row": [f"{n}-{i}" for i in range(s)]}) for n, s in enumerate(sizes)]
    strategy = "all_exhausted" if comes_round else "first_exhausted"
    shares = None if probabilities is None else list(probabilities)
    expected = interleave_datasets(sets, shares, seed=5, stopping_strategy=strategy)["row"]
    assert [f"{n}-{i}" for n, i in order.tolist()] == list(expected)


def test_the_draws_are_the_seeds_and_an_empty_set_takes_no_part():
    one, same, other = (Mixture((0.5, 0.5), 2, False, s).order([50, 50]) for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one[:40], other[:40])
    assert counts_of(Mixture((0.5, 0.5), 2, True, 1).order([0, 9]), 2) == [0, 9]


# -- whole runs' data ---------------------------------------------------------------------------


def write_sets(folder, **keys):
    """Set a has 40 texts, set b 10; each is told by its first word."""
    for name, size in (("a", 40), ("b", 10)):
        lines = [json.dumps({"text": f"{name} SELECT {i} FROM head"}) for i in range(size)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    sets = [{"path": str(folder / f"{name}.jsonl"), "type": "completion"} for name in "ab"]
    config = {"base_model": "m", "learning_rate": 1e-4, "datasets": sets, "sequence_len": 64}
    path = folder / "c.yml"
    path.write_text(yaml.safe_dump(config | keys))
    return path


def prepared(folder, seed=42, **keys):
    spec = load_spec(write_sets(folder, **keys)).spec
    tokenizer = tiny.gpt2_tokenizer()
    data = prepare_data(spec.data, tokenizer=tokenizer, seed=seed, base_dir=folder)
    return [tokenizer.decode(row.input_ids, skip_special_tokens=True) for row in data.train], data


def test_a_run_is_told_what_an_epoch_holds(tmp_path):
    texts, data = prepared(tmp_path, mix_strategy="interleave_over", interleave_probs=[1, 1])
    num_a, num_b = (sum(text.startswith(name) for text in texts) for name in "ab")
    assert len({text for text in texts if text.startswith("a")}) == 40
    assert num_b > 10
    (line,) = [line for line in data.report.render() if "an epoch is drawn" in line]
    assert f"a.jsonl {num_a:,} ({num_a / len(texts):.1%}; it has 40)" in line
    assert f"b.jsonl {num_b:,} ({num_b / len(texts):.1%}; it has 10)" in line
    assert f"{len(texts)} rows to train on" in data.report.render()[-1]


def test_what_is_held_out_is_taken_away_before(tmp_path):
    texts, data = prepared(tmp_path, mix_strategy="interleave_over", val_set_size=10)
    tokenizer = tiny.gpt2_tokenizer()
    heldout = {tokenizer.decode(r.input_ids, skip_special_tokens=True) for r in data.heldout}
    assert len(heldout) == 10
    assert not heldout & set(texts)


def test_llama_factorys_text_of_weights_is_read(tmp_path):
    path = write_sets(tmp_path, mix_strategy="interleave_under", interleave_probs="0.7,0.3")
    assert load_spec(path).spec.data.interleave_probs == (0.7, 0.3)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"interleave_probs": [1, 1]}, "belongs to mix_strategy"),
        ({"mix_strategy": "interleave_under", "interleave_probs": [1]}, "number of weights"),
        ({"mix_strategy": "interleave_under", "interleave_probs": "1,2,3"}, "number of weights"),
        ({"mix_strategy": "interleave_under", "interleave_probs": "1,b"}, "a list of numbers"),
        ({"mix_strategy": "interleave_under", "interleave_probs": [1, 0]}, "interleave_probs"),
        ({"mix_strategy": "interleave_under", "datasets": ["a.jsonl"]}, "there is one"),
    ],
)
def test_weights_that_fit_nothing_are_refused(tmp_path, keys, says):
    with pytest.raises(UserError) as caught:
        load_spec(write_sets(tmp_path, **keys))
    assert says in str(caught.value.problems[0].what)


# -- streams ------------------------------------------------------------------------------------

STREAM = {
    "streaming": True,
    "max_steps": 6,
    "mix_strategy": "interleave_over",
    "interleave_probs": [0.5, 0.5],
    "streaming_multipack_buffer_size": 16,
}


def test_a_stream_interleaves_by_weight(tmp_path):
    spec = load_spec(write_sets(tmp_path, **STREAM)).spec
    tokenizer = tiny.gpt2_tokenizer()
    data = prepare_training_data(spec.data, tokenizer=tokenizer, seed=5, base_dir=tmp_path)
    feed = data.feed(spec.training, sequence_len=64, num_processes=1)
    texts = [
        tokenizer.decode(record.input_ids, skip_special_tokens=True)
        for number in range(64)
        for row in feed.rows_of(number)
        for record in row
    ]
    num_b = sum(text.startswith("b") for text in texts)
    assert num_b / len(texts) == pytest.approx(0.5, abs=0.1), "b has a fifth of the records"
    assert len({text for text in texts if text.startswith("a")}) == len(texts) - num_b
    feed.close()


def test_raw_texts_of_two_streams_are_packed_and_a_stopped_run_goes_on(tmp_path, tiny_llama):
    """pretraining_dataset, streaming, packing and weights together."""
    from ft.runtime import Interrupted

    for name in ("straight", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        write_sets(folder)
        sets = [{"path": str(folder / f"{each}.jsonl"), "text_column": "text"} for each in "ab"]
        keys = {**STREAM, "pretraining_dataset": sets, "datasets": None, "sample_packing": True}
        config = write_config(
            folder, tiny_llama, **keys, sequence_len=64, gradient_accumulation_steps=1
        )
        if name == "stopped":
            with pytest.raises(Interrupted):
                run(config, on_event=stop_after(3))
        run(config)
    assert curve(tmp_path / "stopped" / "out") == curve(tmp_path / "straight" / "out")
    assert len(curve(tmp_path / "straight" / "out")) == 6

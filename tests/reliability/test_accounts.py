"""Every record is trained on, or dropped for a reason that is counted: 500 random sets.

What becomes of each record is known beforehand here, by how it was made.
"""

import json
import random
from collections import Counter

import pytest

import runs
import tiny
from ft.data import prepare_data
from ft.runtime import UserError
from ft.spec import DatasetSpec, DataSpec
from ft.spec.runspec import MappingLayout

LAYOUT = MappingLayout(field_instruction="q", field_output="a", no_input_format="{instruction}:")
LENGTH = 16
# The byte-level tokenizer has a token a letter of these at least for every two.
GOOD, LONG, LONG_ANSWER, BAD_FIELD, NO_JSON = "good", "long", "long answer", "bad field", "no JSON"


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.gpt2_tokenizer()


def line(kind: str, draw: random.Random) -> str:
    number = draw.randrange(100)
    if kind == NO_JSON:
        return draw.choice(['{"q": "x"', "[]", "null", "7", "x", '{"q": "\\ud800", "a": "a"}'])
    record = {
        GOOD: {"q": f"q{number}", "a": "a" * draw.randrange(1, 3)},
        LONG: {"q": "z@" * 40, "a": "a"},
        LONG_ANSWER: {"q": "q", "a": "z@" * 40},
        BAD_FIELD: draw.choice([{"q": "q"}, {}, {"q": "q", "a": None}, {"q": "q", "a": 3}]),
    }[kind]
    return json.dumps(record)


def one_set(seed, folder, tokenizer):
    draw = random.Random(seed)
    rates = [draw.random() ** 3 for _ in range(4)]
    kinds = draw.choices(
        [GOOD, LONG, LONG_ANSWER, BAD_FIELD, NO_JSON], [1, *rates], k=draw.randrange(2, 60)
    )
    made = Counter({GOOD: 2}) + Counter(kinds)
    file = folder / f"{seed}.jsonl"
    file.write_text("".join(line(kind, draw) + "\n" for kind in [GOOD, *kinds, GOOD]))
    excess = draw.choice([None, "drop", "truncate"])
    val_set_size = draw.choice([0, 0.2]) if made[GOOD] > 4 else 0

    def prepare(max_drop):
        keys = {"excess_length_strategy": excess} if excess else {}
        spec = DataSpec(
            datasets=(DatasetSpec(path=str(file), type=LAYOUT),), sequence_len=LENGTH,
            val_set_size=val_set_size, max_drop=max_drop, **keys,
        )  # fmt: skip
        return prepare_data(spec, tokenizer=tokenizer, seed=seed, base_dir=folder)

    return made, excess, prepare


def require_a_true_account(seed, folder, tokenizer):
    made, excess, prepare = one_set(seed, folder, tokenizer)
    data = prepare(max_drop=1.0)
    (report,) = data.report.datasets
    dropped = sum(tally.count for tally in report.drops.values())
    assert report.num_read == made.total() == report.num_kept + dropped
    # A cut record has no answer left if its question fills the row.
    num_cut = made[LONG_ANSWER] if excess == "truncate" else 0
    assert report.num_truncated == num_cut
    assert report.num_kept == made[GOOD] + num_cut
    assert len(data.train) + len(data.heldout or ()) == report.num_kept == report.num_rows
    # Consent is what the YAML says of long records; nobody consents to a broken one.
    consented = made[LONG] + made[LONG_ANSWER] if excess == "drop" else 0
    silent = dropped - consented
    assert report.num_dropped_silently == silent
    assert all(tally.examples[0].origin.line for tally in report.drops.values())
    if silent:
        share = silent / made.total()
        assert prepare(max_drop=share).report.datasets[0].num_kept == report.num_kept
        with pytest.raises(UserError, match=f"{silent} of {made.total()} records"):
            prepare(max_drop=share * 0.999)


def test_sixty_sets(tmp_path, tokenizer):
    for seed in range(60):
        require_a_true_account(seed, tmp_path, tokenizer)


@pytest.mark.slow
def test_five_hundred_sets(tmp_path, tokenizer):
    for seed in range(1000, 1500):
        require_a_true_account(seed, tmp_path, tokenizer)


def test_the_account_is_in_the_runs_events(tmp_path, tiny_llama):
    config = runs.write_config(tmp_path, tiny_llama, num_records=8, max_steps=1, max_drop=0.2)
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write('{"question": "no answer"}\n')
    runs.run(config)
    (data,) = runs.events(tmp_path / "out", "data")
    (account,) = data["datasets"]
    assert (account["num_read"], account["num_kept"]) == (9, 8)
    ((drop,),) = ([tally] for tally in account["drops"].values())
    assert drop["count"] == 1
    assert drop["examples"][0]["origin"].endswith("data.jsonl:9")

"""The long command: what was done is not done again, faults are kept, what was not run is named."""

import pytest
from programme.bench import Bench, Outcome
from programme.parts import Ledger, Part, run_parts, share_of, table


@pytest.fixture
def made():
    """A small programme of two parts, and what they were asked to do."""
    asked = []

    def trial(bench, name):
        asked.append(name)
        if name == "breaks":
            raise RuntimeError("of itself")
        outcome = Outcome()
        outcome.expect(name != "bad", "it is bad", good=1)
        return outcome

    programme = [
        Part("a", "first", trial, [["good"], ["bad"], ["breaks"]]),
        Part("b", "second", trial, [["x"]]),
    ]
    return programme, asked


def test_it_goes_on_where_it_was_stopped(tmp_path, made):
    programme, asked = made
    bench, ledger = Bench(tmp_path, tmp_path), Ledger(tmp_path / "ledger.jsonl")
    lines = run_parts(programme, bench, ledger, [])
    assert next(lines).startswith("a 1/3 good: 1 good")
    lines.close()  # stopped
    with ledger.path.open("a") as file:
        file.write('{"part": "a", "tri')  # in the middle of a line
    list(run_parts(programme, bench, ledger, ["a"]))
    assert asked == ["good", "bad", "breaks"]
    assert [record["faults"] for record in ledger.records()] == [
        [], ["it is bad"], ["broke off: RuntimeError: of itself"],
    ]  # fmt: skip
    assert table(programme, ledger).splitlines()[2:] == [
        "| first | 3 of 3 | 1 good | 2 | 0.0 min |",
        "| second | 0 of 1 | not run |  |  |",
    ]


def test_a_part_is_done_again_when_it_is_asked_for(tmp_path, made):
    programme, asked = made
    bench, ledger = Bench(tmp_path, tmp_path), Ledger(tmp_path / "ledger.jsonl")
    list(run_parts(programme, bench, ledger, []))
    ledger.forget("b")
    assert len(list(run_parts(programme, bench, ledger, []))) == 1
    assert asked == ["good", "bad", "breaks", "x", "x"]


def test_shares_have_each_trial_once(made):
    programme, _ = made
    shares = [share_of(programme, number, 2) for number in range(2)]
    assert [[part.trials for part in share] for share in shares] == [
        [[["good"], ["breaks"]], [["x"]]], [[["bad"]], []],
    ]  # fmt: skip

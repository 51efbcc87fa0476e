"""Faults planted in the source: the suite must see each of them."""

import pytest
from programme.bench import Bench
from programme.forks import ROOT
from programme.mutants import MUTANTS, changed, is_caught


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_can_be_planted(name):
    """The source has the lines that it changes; when they have changed, so must the fault."""
    for edit in MUTANTS[name].edits:
        compile(changed(edit, ROOT / "src/ft"), edit.file, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", *MUTANTS])
def test_a_planted_fault_is_seen(tmp_path, tiny_llama, name):
    assert not is_caught(Bench(tmp_path, tiny_llama), name).faults

"""Faults planted in the source: the suite must see each of them."""

import pytest
from programme.bench import Bench
from programme.mutants import MUTANTS, is_caught


@pytest.mark.slow
@pytest.mark.parametrize("name", ["none", *MUTANTS])
def test_a_planted_fault_is_seen(tmp_path, tiny_llama, name):
    assert not is_caught(Bench(tmp_path, tiny_llama), name).faults

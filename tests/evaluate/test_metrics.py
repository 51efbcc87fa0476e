"""Exact match, strict and normalized."""

import pytest

from ft.evaluate.metrics import exact_match, normalized_exact_match


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "normalized"),
    [
        ("SELECT 1", " SELECT 1\n", 1, 1),
        ("select  1;", "SELECT 1", 0, 1),
        ('WHERE name = "Ann"', "WHERE name = 'ann'", 0, 1),
        ("SELECT COUNT(*)", "SELECT COUNT(*", 0, 0),
        ("SELECT 2", "SELECT 1", 0, 0),
        ("", "SELECT 1", 0, 0),
    ],
)
def test_metrics(answer, reference, exact, normalized):
    assert exact_match(answer, reference) == exact
    assert normalized_exact_match(answer, reference) == normalized

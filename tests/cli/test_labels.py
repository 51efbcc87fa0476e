"""Labels in the terminal: names from records are text, whatever is in them."""

import pytest
from rich.console import Console

from ft.cli.labels import label_comparison


@pytest.mark.parametrize("label", ["[red]good", "[/bad]", "\x1b[31mbad", "two\nlines"])
def test_a_label_is_shown_as_it_is_and_steers_nothing(label, capsys):
    figures = {
        "eval_loss": 1.0, "eval_accuracy": 0.5, "f1_of_label": {label: 0.5, "b": 0.5},
        "confusion": [[1, 0], [1, 0]],
    }  # fmt: skip
    result = {"num_heldout_records": 2, "base": figures, "tuned": figures}
    for table in label_comparison(result):
        Console(width=100).print(table)
    shown = capsys.readouterr().out
    name = label.replace("\n", "\\n").replace("\x1b", "")
    assert f"F1 of {name}" in shown or f"F1 of \\x1b{name}" in shown
    assert "\x1b" not in shown

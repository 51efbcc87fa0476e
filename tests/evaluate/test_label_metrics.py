"""The figures of a classifier, against what scikit-learn says, with labels that do not occur."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from ft.evaluate.label_metrics import label_figures
from ft.spec.classification import Classification

ONE_OF_FOUR = Classification("single_label_classification", ("a", "b", "c", "d"))


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_label_that_no_held_out_record_has_is_left_out_of_the_mean(missing):
    there = [number for number in range(4) if number != missing]
    targets = np.array([there[0], there[1], there[2], there[0]])
    told = np.array([there[0], there[2], there[2], there[1]])
    figures = label_figures(np.eye(4)[told], targets, ONE_OF_FOUR)
    expected = f1_score(targets, told, average="macro", labels=there, zero_division=0.0)
    assert figures["eval_f1_macro"] == pytest.approx(expected)
    assert figures["f1_of_label"][ONE_OF_FOUR.labels[missing]] == 0.0
    assert np.shape(figures["confusion"]) == (4, 4)

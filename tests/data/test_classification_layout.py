"""Labels: what records may hold, what rows hold of them, and what is found where nothing is said."""

import json

import numpy as np
import pytest

import tiny
from ft.data.classification.batches import LabeledBatches
from ft.data.classification.find import with_labels_found
from ft.data.classification.targets import as_floats, target_of
from ft.data.classification.tokens import tokenize_labeled
from ft.data.prepare import prepare_data
from ft.data.segments import IGNORE_INDEX, Labeled, RecordError
from ft.data.tokenized import Example
from ft.runtime import UserError
from ft.spec.classification import Classification
from ft.spec.runspec import DatasetSpec, DataSpec

SINGLE = Classification("single_label_classification", ("bad", "good", "mixed"))
SEVERAL = Classification("multi_label_classification", ("bad", "good", "mixed"))
NUMBER = Classification("regression", ("value",))


@pytest.mark.parametrize(
    ("value", "task", "target"),
    [
        ("good", SINGLE, (1,)), (2, SINGLE, (2,)), ("2", SINGLE, (2,)), (1.0, SINGLE, (1,)),
        (["mixed", "bad"], SEVERAL, (0, 2)), ([], SEVERAL, (3,)), ([2, 0], SEVERAL, (0, 2)),
        ([0.0, 1.0, 1.0], SEVERAL, (1, 2)), ([False, False, True], SEVERAL, (2,)),
        ("good", SEVERAL, (1,)),
    ],
)  # fmt: skip
def test_what_a_record_may_hold(value, task, target):
    assert target_of(value, task) == target


@pytest.mark.parametrize(
    ("value", "task", "reason"),
    [
        ("god", SINGLE, "unknown label"), (3, SINGLE, "unknown label"), (None, SINGLE, "no label"),
        ([1, 1], SEVERAL, "given twice"), ([1.0, 0.0], SEVERAL, "not one value a label"),
        ("3.5", NUMBER, "no number"), (10**400, NUMBER, "no number"), (float("nan"), NUMBER, "no number"), (True, NUMBER, "number"),
    ],
)  # fmt: skip
def test_what_it_may_not(value, task, reason):
    with pytest.raises(RecordError, match=reason):
        target_of(value, task)


def test_a_number_comes_back_from_its_bits_even_where_labels_are_ignored():
    bits = np.array([target_of(value, NUMBER)[0] for value in (-100.0, 0, 3.5)], np.int32)
    assert as_floats(bits).tolist() == [-100.0, 0.0, 3.5]
    assert IGNORE_INDEX not in bits.tolist()


@pytest.mark.parametrize("cuts_left", [False, True])
def test_a_long_text_is_cut_at_its_side_and_keeps_its_special_tokens(cuts_left):
    tokenizer = tiny.wordpiece_tokenizer()
    text = "how many heads of the departments are older than 56 ?"
    whole, cut = tokenize_labeled(
        [Labeled(text, None, (1,), limit, cuts_left) for limit in (None, 8)], tokenizer
    )
    inner = whole.input_ids[1:-1]
    assert cut.input_ids[1:-1] == (inner[-6:] if cuts_left else inner[:6])
    assert (cut.input_ids[0], cut.input_ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert cut.labels == [IGNORE_INDEX] * 7 + [1]
    assert cut.num_wanted == len(whole.input_ids)


def test_two_texts_are_told_apart_as_the_tokenizer_means():
    tokenizer = tiny.wordpiece_tokenizer()
    texts = [("how many heads ?", "56"), ("answer", "the largest city of the departments")]
    rows = tokenize_labeled([Labeled(a, b, (0,), None, False) for a, b in texts], tokenizer)
    ids = [row.input_ids for row in rows]
    batch = LabeledBatches(SINGLE, tokenizer.pad_token_id, tokenizer.sep_token_id).inputs(ids)
    expected = tokenizer(
        *map(list, zip(*texts, strict=True)), padding=True, return_token_type_ids=True,
        return_tensors="pt",
    )  # fmt: skip
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name].tolist() == expected[name].tolist(), name


def test_targets_of_a_batch():
    def row(*labels):
        labels = np.array([IGNORE_INDEX, *labels], np.int32)
        return Example(np.arange(len(labels), dtype=np.int32), labels, None)

    several = LabeledBatches(SEVERAL, 0).batch([row(0, 2), row(3)])
    assert several.targets.tolist() == [[1, 0, 1], [0, 0, 0]]
    weighed = LabeledBatches(SINGLE, 0, weights=(1.0, 2.0, 4.0)).batch([row(2), row(0)])
    assert (weighed.targets.tolist(), float(weighed.weight_sum())) == ([2, 0], 5.0)


def data_of(folder, labels, **keys):
    path = folder / "records.jsonl"
    lines = [json.dumps({"text": f"a head {i}", "label": label}) for i, label in enumerate(labels)]
    path.write_text("\n".join(lines) + "\n")
    entry = DatasetSpec(path=str(path), type="classification")
    return DataSpec(datasets=(entry,), task_type="SEQ_CLS", **keys)


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["good", "bad", "good"], "single_label_classification", ("bad", "good")),
        ([10, 2, 2], "single_label_classification", ("2", "10")),
        ([True, False], "single_label_classification", ("false", "true")),
        ([["a"], [], ["b", "a"]], "multi_label_classification", ("a", "b")),
        ([[0.0, 1.0, 0.0]], "multi_label_classification", ("0", "1", "2")),
        ([1, 2.5], "regression", ("value",)),
    ],
)
def test_labels_are_found_in_the_records(tmp_path, labels, kind, names):
    found = with_labels_found(data_of(tmp_path, labels), tmp_path)
    assert (found.problem_type, found.id2label, found.num_labels) == (kind, names, len(names))
    assert with_labels_found(found, tmp_path) == found


def test_an_unknown_label_is_told_with_its_line(tmp_path):
    spec = data_of(tmp_path, ["bad", "good", "god", "bad"], id2label=("bad", "good"))
    with pytest.raises(UserError, match=r"records\.jsonl:3: label 'god'; the labels are bad, good"):
        prepare_data(
            with_labels_found(spec, tmp_path), tokenizer=tiny.wordpiece_tokenizer(), seed=0,
            base_dir=tmp_path,
        )  # fmt: skip

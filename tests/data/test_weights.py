"""Records that count by a field: read with care, carried through packs and layouts, cached."""

import json

import numpy as np
import pytest
import yaml

import tiny
from ft.data.batches import Flat, Padded, join
from ft.data.obtain import token_cache
from ft.data.prepare import prepare_data
from ft.runtime import UserError
from ft.spec import load_spec


def prepared(folder, weights, cache=None, **keys):
    """Records with a weight each (None = without the field), prepared."""
    records = [
        {"text": f"SELECT {i} FROM head"} | ({} if weight is None else {"w": weight})
        for i, weight in enumerate(weights)
    ]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    entry = {"path": str(folder / "d.jsonl"), "type": "completion", "field_weight": "w"}
    config = {"base_model": "m", "learning_rate": 1e-4, "datasets": [entry | keys]}
    (folder / "c.yml").write_text(yaml.safe_dump(config | {"shuffle_merged_datasets": False}))
    spec = load_spec(folder / "c.yml").spec.data
    return prepare_data(spec, tokenizer=tiny.gpt2_tokenizer(), seed=0, base_dir=folder, cache=cache)


def test_each_row_knows_its_weight_and_the_cache_keeps_it(tmp_path):
    cache = token_cache(str(tmp_path / "cache"), "gpt2")
    for is_from_cache in (False, True):
        data = prepared(tmp_path, [2, 0.5, 1], cache)
        assert data.report.is_from_cache == is_from_cache
        assert [float(row.values["weight"][0]) for row in data.train] == [2, 0.5, 1]
    assert "counts by its field 'w'" in "\n".join(data.report.render())


def test_other_weights_are_other_data(tmp_path):
    one, other = prepared(tmp_path, [2, 1]), prepared(tmp_path, [1, 2])
    assert one.fingerprint() != other.fingerprint()


def test_a_weight_of_0_leaves_the_record_out_with_consent(tmp_path):
    data = prepared(tmp_path, [1, 0, 0, 1])
    assert len(data.train) == 2
    assert "dropped 2: a weight of 0" in "\n".join(data.report.render())
    assert data.train[0].values == {}, "all that is left counts alike"


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), 10**400, 1e39, "2", True, [1]])
def test_what_is_no_weight_is_refused_with_its_line(tmp_path, weight):
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, [1, weight])
    problem = caught.value.problems[0]
    assert problem.where.endswith("d.jsonl:2")
    assert "the weight in field 'w' is" in problem.what


def test_a_record_without_its_weight_is_one_that_is_lost(tmp_path):
    with pytest.raises(UserError, match="can't be used"):
        prepared(tmp_path, [1, None])


def test_layouts_carry_weights_to_the_tokens_that_are_predicted(tmp_path):
    rows = prepared(tmp_path, [3, 5, 1]).train
    lengths = [len(row.input_ids) - 1 for row in rows]
    expected = np.repeat([3.0, 5.0, 1.0], lengths)
    batches = {
        "flat": Flat(512).batch(list(rows)),
        "packed": Padded(0).batch([join(list(rows))]),
        "padded": Padded(0).batch(list(rows)),
    }
    for name, batch in batches.items():
        is_trained = (batch.targets != -100).numpy()
        got = batch.values["weight"].numpy()
        assert got.shape == is_trained.shape
        assert got[is_trained].tolist() == expected.tolist(), name
        assert float(batch.weight_sum()) == expected.sum()

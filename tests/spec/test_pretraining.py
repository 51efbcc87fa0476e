"""`pretraining_dataset:` is read as datasets of type completion."""

import pytest

from ft.runtime import UserError
from ft.spec import dump_spec, load_spec

SMALL = "base_model: some/model\nlearning_rate: 2e-4\n"


@pytest.fixture
def load(tmp_path):
    def load(text: str):
        path = tmp_path / "c.yml"
        path.write_text(SMALL + text)
        return load_spec(path)

    return load


def problems(load, text: str) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as error:
        load(text)
    return [(p.where.split(":", 1)[1], p.what) for p in error.value.problems]


def test_an_entry_is_trained_from_end_to_end(load, tmp_path):
    loaded = load(
        "max_steps: 10\npretraining_dataset:\n"
        "  - {path: allenai/c4, name: en, type: pretrain, split: train, text_column: body}\n"
        "  - {path: a.jsonl, skip: 100, trust_remote_code: false}\n"
    )
    first, second = loaded.spec.data.datasets
    assert (first.path, first.name, first.type) == ("allenai/c4", "en", "completion")
    assert (first.split, first.field) == ("train", "body")
    assert (second.type, second.split) == ("completion", "train[100:]")
    assert "All of it is read before the first step" in "\n".join(loaded.notices)
    again = tmp_path / "resolved.yml"
    again.write_text(dump_spec(loaded.spec))
    assert load_spec(again).spec == loaded.spec


@pytest.mark.parametrize("entry", [" corpus.txt", "\n  path: corpus.txt", "\n  - corpus.txt"])
def test_one_entry_needs_no_list(load, entry):
    (dataset,) = load(f"max_steps: 10\npretraining_dataset:{entry}\n").spec.data.datasets
    assert (dataset.path, dataset.type) == ("corpus.txt", "completion")


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("pretraining_dataset: [a.txt]\n", "3:1", "pretraining_dataset needs max_steps"),
        (
            "max_steps: 1\npretraining_dataset: [a.txt]\ndatasets: [b.txt]\n",
            "4:1",
            "both given",
        ),
        (
            "max_steps: 1\npretraining_dataset:\n  - path: a.txt\n    nmae: en\n",
            "6:5",
            "unknown key 'nmae'",
        ),
        ("max_steps: 1\npretraining_dataset:\n  path: a.txt\n  split: 3\n", "6:3", "split: got 3"),
    ],
)
def test_a_mistake_is_told_where_it_stands(load, text, place, what):
    ((found_place, found_what),) = problems(load, text)
    assert found_place == place
    assert what in found_what


def test_an_empty_one_asks_for_nothing(load):
    assert problems(load, "pretraining_dataset:\n") == [("1:1", "datasets is missing")]


def test_packs_keep_texts_apart_which_needs_a_word_where_it_was_not_asked_for(load):
    text = "max_steps: 1\npretraining_dataset: [a.txt]\npretrain_multipack_attn: "
    said = "records of a pack never see each other"
    assert said not in "\n".join(load(f"{text}true\n").notices)
    assert said not in "\n".join(load(f"{text}\n").notices)
    assert said in "\n".join(load(f"{text}false\n").notices)

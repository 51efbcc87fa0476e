"""Which run goes on with which config: one case a key, so that a new key needs a class."""

import pytest

import runs
from ft.runtime import RunDirectory, UserError
from ft.spec import dump_spec, load_spec
from ft.spec.runspec import DatasetSpec, SpecialTokens, sections_of_keys
from ft.train.identity import ASKED_KEYS, FIXED_KEYS, FREE_KEYS, differences, require_same_run

KEYS = sections_of_keys()
OTHER = {
    "special_tokens": SpecialTokens(pad_token="<pad>"),
    "datasets": (DatasetSpec(path="other.jsonl", type="alpaca"),),
    "test_datasets": (DatasetSpec(path="other.jsonl", type="alpaca"),),
    "max_time": "3h",
}


def other(value):
    """A value of the same kind, and another one."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}_2"
        case dict():
            return {**value, "some": True}
        case tuple():
            return (*value, "some")
    return 1


@pytest.fixture
def begun(tmp_path, tiny_llama):
    """A directory in which a run began, and its spec."""
    spec = load_spec(runs.write_config(tmp_path, tiny_llama)).spec
    run = RunDirectory(tmp_path / "out")
    run.path.mkdir()
    run.write_resolved_spec(dump_spec(spec))
    identity = {"format": 1, "finished": False, "config": "", "probe_input_ids": [], "files": []}
    run.write_run(identity | {"data": {"fingerprint": ""}})
    return run, spec


def changed(spec, key):
    section = getattr(spec, KEYS[key])
    value = OTHER.get(key, other(getattr(section, key)))
    return spec.model_copy(update={KEYS[key]: section.model_copy(update={key: value})})


def test_every_key_is_free_or_asked_or_fixed():
    classes = [FREE_KEYS, ASKED_KEYS, FIXED_KEYS]
    assert set().union(*classes) == set(KEYS), "write a new key down in ft.train.identity"
    assert sum(map(len, classes)) == len(KEYS), "in one of them"


# The values need not be ones that a YAML could hold.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("key", KEYS)
def test_a_changed_key(key, begun):
    run, spec = begun
    assert differences(run, spec) == []
    found = differences(run, changed(spec, key))
    if key in FREE_KEYS:
        assert found == []
        return
    assert [each.key for each in found] == [key]
    with pytest.raises(UserError, match=f"began otherwise: {key}") as caught:
        require_same_run(run, found, overrides=())
    (row,) = [line for line in caught.value.problems[0].fix.splitlines() if line.startswith(key)]
    if key in ASKED_KEYS:
        assert row.endswith(f"--override {key}")
        require_same_run(run, found, overrides=[key])
        return
    assert "fixed" in row
    with pytest.raises(UserError):
        require_same_run(run, found, overrides=[key])

from __future__ import annotations

import shutil

import pytest
import torch
import yaml

from ft.cli.preflight import check_inputs
from ft.model import Hardware, Precision, check_base, load_base
from ft.runtime.errors import UserError
from ft.spec import load_spec
from ft.spec.runspec import ModelSpec

CPU = Hardware("cpu", supports_bf16=True)


@pytest.fixture
def untrained(tiny_llama, tmp_path):
    """A model's folder without its weights."""
    folder = shutil.copytree(tiny_llama, tmp_path / "untrained")
    (folder / "model.safetensors").unlink()
    return folder


def weights(folder, seed):
    spec = ModelSpec(base_model=str(folder), random_init_seed=seed)
    return load_base(spec, Precision(), hardware=CPU).model.state_dict()


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn(untrained):
    state = torch.random.get_rng_state()
    first, again, other = weights(untrained, 1), weights(untrained, 1), weights(untrained, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_the_key_the_error_names_it(untrained):
    with pytest.raises(UserError, match="random_init_seed"):
        check_base(ModelSpec(base_model=str(untrained)))
    check_base(ModelSpec(base_model=str(untrained), random_init_seed=0))


def test_weights_that_are_there_are_not_passed_over(tiny_llama):
    with pytest.raises(UserError, match="holds weights"):
        check_base(ModelSpec(base_model=str(tiny_llama), random_init_seed=0))
    with pytest.raises(UserError, match="no such folder"):
        check_base(ModelSpec(base_model="hub/name", random_init_seed=0))


def test_weights_that_are_there_are_drawn_anew_if_the_file_says_so(tiny_llama):
    spec = ModelSpec(base_model=str(tiny_llama), reinit_weights=True, random_init_seed=1)
    check_base(spec)
    drawn = load_base(spec, Precision(), hardware=CPU).model.state_dict()
    read = load_base(ModelSpec(base_model=str(tiny_llama)), Precision(), hardware=CPU)
    assert not torch.equal(drawn["lm_head.weight"], read.model.state_dict()["lm_head.weight"])
    again = load_base(spec, Precision(), hardware=CPU).model.state_dict()
    assert torch.equal(drawn["lm_head.weight"], again["lm_head.weight"])


def write_config(folder, **keys):
    config = folder / "run.yml"
    data = {"path": "data.jsonl", "type": "completion"}
    keys = {"base_model": "./untrained", "datasets": [data], "learning_rate": 1e-3, **keys}
    config.write_text(yaml.safe_dump(keys))
    (folder / "data.jsonl").write_text('{"text": "a"}\n')
    return config


def test_a_base_is_found_beside_its_yaml(untrained):
    check_inputs(load_spec(write_config(untrained.parent, random_init_seed=0)))
    with pytest.raises(UserError, match="random_init_seed"):
        check_inputs(load_spec(write_config(untrained.parent)))


def test_random_weights_get_no_adapter(untrained):
    config = write_config(untrained.parent, random_init_seed=0, adapter="lora")
    with pytest.raises(UserError, match="get no adapter"):
        load_spec(config)

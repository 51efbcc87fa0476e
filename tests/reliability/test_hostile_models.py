"""Model, tokenizer and adapter folders that bring code: none of it runs, whatever it is called.

Every file of code here would make a file named CANARY; nothing may ever make it.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest

import runs
from ft.cli import main
from ft.model import load_config, load_tokenizer
from ft.model.base_check import check_adapter_folder, check_base
from ft.runtime import RunDirectory, UserError
from ft.spec import ModelSpec

CODE = "import pathlib\npathlib.Path({canary!r}).touch()\nclass X:\n    pass\ndef generate(*a, **k):\n    pass\n"
PICKLES = [
    "adapter_model.bin", "pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "optimizer.pt",
    "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt", "training_args.bin",
    "value_head.bin", "custom_checkpoint_0.pkl", "model.pt", "tokenizer.pkl", "optimizer.bin",
]  # fmt: skip


class Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """Stays away through each of these tests."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "CANARY"
    yield path
    assert not path.exists()


@pytest.fixture
def model(tmp_path, tiny_llama):
    return shutil.copytree(tiny_llama, tmp_path / "model")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("finished")
    runs.run(runs.write_config(folder, tiny_llama, num_records=8, max_steps=2, save_steps=1))
    return folder


def edit(path, **values):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def with_code(folder, canary):
    for name in ("code.py", "modeling.py", "custom_generate/generate.py", "__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(CODE.format(canary=str(canary)))


def code_of(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def test_the_bombs_go_off(tmp_path):
    """Or the tests below would show nothing."""
    canary = tmp_path / "other"
    pickle.loads(pickle.dumps(Bomb(canary))).close()
    assert canary.exists()


def test_pickles_of_every_name_beside_a_model_are_passed_over(finished, tmp_path, canary, capsys):
    folder = shutil.copytree(finished, tmp_path / "all")
    places = [folder / "out", *(folder / "out" / "checkpoints").iterdir()]
    for place in places:
        for name in PICKLES:
            (place / name).write_bytes(pickle.dumps(Bomb(canary)))
    asked = code_of(
        "infer", folder / "out", "--prompt", "a", "--field", "context=t", "--max-new-tokens", "1"
    )
    assert asked == 0
    assert code_of("merge", folder / "out") in (0, 2)  # 2: so short a run may have changed nothing


def test_pickles_in_checkpoints_are_not_read_when_a_run_goes_on(finished, tmp_path, canary):
    folder = shutil.copytree(finished, tmp_path / "all")
    for place in (folder / "out" / "checkpoints").iterdir():
        for name in PICKLES:
            (place / name).write_bytes(pickle.dumps(Bomb(canary)))
    edit(folder / "out" / "run.json", finished=False)
    resolved = folder / "out" / "resolved.yml"
    resolved.write_text(resolved.read_text().replace(str(finished), str(folder)))
    config = folder / "run.yml"
    config.write_text(config.read_text().replace(str(finished), str(folder)))
    assert code_of("train", config) == 0


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_base_of_pickles_alone_is_refused(name, model, canary):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UserError, match="pickled weights only"):
        check_base(ModelSpec(base_model=str(model)))


def test_an_adapter_of_pickles_alone_is_refused(tmp_path, canary):
    folder = tmp_path / "adapter"
    folder.mkdir()
    edit(folder / "adapter_config.json", peft_type="LORA")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UserError, match="never read"):
        check_adapter_folder(str(folder))


AUTO_MAP = {
    name: "code.X"
    for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor",
                 "AutoFeatureExtractor", "AutoVideoProcessor")
} | {"AutoTokenizer": ["code.X", "code.X"]}  # fmt: skip
FILES = [
    "config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "special_tokens_map.json",
]  # fmt: skip


@pytest.mark.parametrize("type_", ["llama", "nothing_that_is_known"])
@pytest.mark.parametrize("trusting", [{}, {"trust_remote_code": True}])
def test_code_of_a_model_folder_never_runs(type_, trusting, model, canary, tmp_path):
    """A kind that transformers knows is loaded without it; another is refused with words."""
    with_code(model, canary)
    for name in FILES:
        edit(
            model / name,
            auto_map=AUTO_MAP,
            custom_generate="./",
            custom_pipelines={"x": {"impl": "code.X"}},
            **trusting,
        )
    edit(model / "config.json", model_type=type_, text_config={"auto_map": AUTO_MAP, **trusting})
    if type_ == "llama":
        edit(model / "config.json", text_config=None)
        assert runs.run(runs.write_config(tmp_path, model, max_steps=1, trust_remote_code=True))
        return
    with pytest.raises(UserError, match=r"code from its own repository|of a kind|cannot be read"):
        load_config(ModelSpec(base_model=str(model)))


def test_a_tokenizer_that_is_nothing_but_code_is_refused(model, canary):
    with_code(model, canary)
    for name in ("tokenizer.json", "special_tokens_map.json", "chat_template.jinja"):
        (model / name).unlink(missing_ok=True)
    (model / "tokenizer_config.json").write_text("{}")
    edit(model / "tokenizer_config.json", tokenizer_class="X", auto_map=AUTO_MAP)
    with pytest.raises(UserError):
        load_tokenizer(ModelSpec(base_model=str(model)))


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "someone/kernel@main:f"},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_experts_implementation_internal": "someone/kernel"},
        {"text_config": {"_attn_implementation_internal": "someone/kernel"}},
        {"attn_implementation": {"": "someone/kernel"}},
        {"kernel_config": {"RMSNorm": "someone/kernel:RMSNorm"}},
    ],
)
def test_a_config_that_names_a_kernel_of_the_hub_is_refused(values, model):
    edit(model / "config.json", **values)
    with pytest.raises(UserError, match="names code of a hub repository"):
        check_base(ModelSpec(base_model=str(model)))


def test_no_library_asks_a_hub_for_a_kernel(tmp_path, canary):
    """A package `kernels` that would fetch one is there, and is never asked for it."""
    fetch = f"__version__ = '0.0.1'\ndef get_kernel(*a, **k):\n    open({str(canary)!r}, 'w')\n"
    (tmp_path / "kernels.py").write_text(fetch)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    code = "import ft.model.loaded, bitsandbytes"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True
    )


def test_an_adapter_that_names_a_module_to_import_is_refused(finished, tmp_path, canary):
    adapter = shutil.copytree(finished / "out", tmp_path / "adapter")
    (tmp_path / "evil.py").write_text(CODE.format(canary=str(canary)))
    edit(adapter / "adapter_config.json", megatron_config={"x": 1}, megatron_core="evil")
    with pytest.raises(UserError, match="names code to import"):
        check_adapter_folder(str(adapter))


def test_the_base_that_an_adapter_names_is_not_followed(finished, tmp_path, canary):
    """The run's own spec says what the base is; what adapter_config.json says is for others."""
    folder = shutil.copytree(finished, tmp_path / "all")
    with_code(tmp_path, canary)
    values = {
        "base_model_name_or_path": "../../../etc",
        "auto_mapping": {"base_model_class": "X", "parent_library": "code"},
    }
    edit(folder / "out" / "adapter_config.json", **values)
    assert (
        code_of(
            "infer",
            folder / "out",
            "--prompt",
            "a",
            "--field",
            "context=t",
            "--max-new-tokens",
            "1",
        )
        == 0
    )


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "a/../../x.safetensors", "sub/x.safetensors"]
)
def test_weights_outside_of_their_folder_are_not_read(name, model, tmp_path):
    shutil.copy(model / "model.safetensors", tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="points outside its folder"):
        check_base(ModelSpec(base_model=str(model)))


@pytest.mark.parametrize(
    "key", ["vocab_file", "merges_file", "tokenizer_file", "chat_template_file"]
)
def test_a_tokenizer_config_names_no_file_elsewhere(key, model, tmp_path):
    (tmp_path / "secret.env").write_text("TOP=SECRET_CANARY_VALUE")
    edit(model / "tokenizer_config.json", **{key: "../secret.env"})
    tokenizer = load_tokenizer(ModelSpec(base_model=str(model))).tokenizer
    tokenizer.save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "saved").rglob("*"):
        assert file.is_dir() or b"SECRET_CANARY_VALUE" not in file.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "tokenizer.model",
     "additional_chat_templates/other.jinja"],
)  # fmt: skip
def test_a_tokenizers_file_that_is_a_link_elsewhere_is_refused(name, model, tmp_path):
    """A run copies these files, and is pushed later."""
    (tmp_path / "secret.env").write_text("TOP=SECRET_CANARY_VALUE")
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "secret.env")
    with pytest.raises(UserError, match="is a link to a file outside of the folder") as caught:
        load_tokenizer(ModelSpec(base_model=str(model)))
    assert "SECRET_CANARY_VALUE" not in str(caught.value)


def test_links_of_the_hubs_cache_are_followed(model, tmp_path):
    repository = tmp_path / "models--a--b"
    (repository / "snapshots").mkdir(parents=True)
    shutil.copytree(model, repository / "blobs")
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir()
    for file in model.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert load_tokenizer(ModelSpec(base_model=str(snapshot))).tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json"])
def test_what_another_link_leads_to_is_neither_shown_nor_kept(name, model, tmp_path):
    """It is read as what it is named, and is no such thing."""
    (tmp_path / "secret.env").write_text("TOP=SECRET_CANARY_VALUE")
    (model / name).unlink()
    (model / name).symlink_to(tmp_path / "secret.env")
    said = ""
    try:
        runs.run(runs.write_config(tmp_path, model, max_steps=1, adapter=None))
    except UserError as error:
        said = str(error)
    assert bool(said) == (name != "generation_config.json"), "which transformers does without"
    kept = [file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not [each for each in [*kept, said.encode()] if b"SECRET_CANARY_VALUE" in each]


def test_a_run_names_no_file_elsewhere_to_remove(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "all")
    (tmp_path / "precious").write_text("x")
    edit(folder / "out" / "run.json", files=["../../precious", "/etc/passwd", "..", "."])
    RunDirectory(folder / "out").clear()
    assert (tmp_path / "precious").exists()

"""The tokenized cache of a real run: each input changed alone misses, whatever else changes hits.

Kills while it is made, two makers at once, and keys of data sets: tests/data/test_cache.py.
"""

import shutil

import pytest

import runs
import tiny
from ft.data import cache_key
from ft.data.obtain import token_cache
from ft.data.prepare import LazyTokenizer, prepare_data
from ft.model import load_tokenizer
from ft.model.tokenizer_identity import tokenizer_identity
from ft.spec import load_spec

STRATEGY = """
from ft.data import Segment
from wording import SIGN
def segments(record):
    return [Segment(record["question"] + SIGN), Segment(record["answer"], True, True)]
"""


class NeedsMakingError(Exception):
    """The tokens are not there."""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config whose tokens are in the cache already."""
    monkeypatch.chdir(tmp_path)
    base = tiny.save_tiny_llama(tmp_path / "base")
    (tmp_path / "mine.py").write_text(STRATEGY)
    (tmp_path / "wording.py").write_text("SIGN = ':'\n")
    config = runs.write_config(
        tmp_path, base, num_records=6, dataset_prepared_path=str(tmp_path / "cache"),
        datasets=[{"path": str(tmp_path / "data.jsonl"), "type": "./mine.py"}],
    )  # fmt: skip
    prepare(config, is_made=True)
    assert is_hit(config)
    return config


def prepare(config, *arguments, is_made):
    spec = load_spec(config, arguments).spec

    def load():
        if not is_made:
            raise NeedsMakingError
        return load_tokenizer(spec.model).tokenizer

    return prepare_data(
        spec.data,
        tokenizer=LazyTokenizer(load),
        seed=spec.training.seed,
        base_dir=config.parent,
        cache=token_cache(spec.data.dataset_prepared_path, tokenizer_identity(spec.model)),
    )


def is_hit(config, *arguments):
    try:
        return prepare(config, *arguments, is_made=False).report.is_from_cache
    except NeedsMakingError:
        return False


@pytest.mark.parametrize(
    "options",
    [
        "--output-dir elsewhere", "--seed 1", "--learning-rate 1e-5", "--lora-r 2", "--num-epochs 9",
        "--sample-packing true", "--save-steps 3", "--micro-batch-size 1", "--val-set-size 0.5",
        "--max-drop 0.5", "--bf16 true", "--load-in-8bit true",
    ],
)  # fmt: skip
def test_what_changes_no_token_hits(config, options):
    assert is_hit(config, *options.split())


def test_the_weights_of_the_base_and_the_dates_of_files_change_no_token(config):
    (config.parent / "base" / "model.safetensors").write_bytes(b"")
    for file in ("data.jsonl", "mine.py", "base/tokenizer.json"):
        (config.parent / file).touch()
    assert is_hit(config)


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("data.jsonl", "SELECT", "SELEKT"),
        ("mine.py", '["answer"]', '["context"]'),
        ("wording.py", ":", "?"),
        ("base/tokenizer.json", '"1.0"', '"1.1"'),
        ("base/tokenizer_config.json", "<|im_end|>", "<|endoftext|>"),
        ("base/chat_template.jinja", "im_start", "im_begin"),
        ("base/config.json", '"llama"', '"mistral"'),
    ],
)
def test_each_file_changed_alone_misses(config, file, before, after):
    path = config.parent / file
    content = path.read_text()
    assert before in content
    path.write_text(content.replace(before, after, 1))
    assert not is_hit(config)
    path.write_text(content)
    assert is_hit(config)


@pytest.mark.parametrize(
    "options",
    ["--tokens [<new>]", "--special-tokens.pad-token <|endoftext|>", "--sequence-len 200",
     "--train-on-inputs true", "--chat-template chatml", "--tokenizer-config other",
     "--datasets.0.split train[:5]", "--eot-tokens [x]"],
)  # fmt: skip
def test_each_key_changed_alone_misses(config, options):
    other = shutil.copytree(config.parent / "base", config.parent / "other")
    tiny.TOKENIZERS["gpt2"]().save_pretrained(other)
    assert not is_hit(config, *options.split())
    assert is_hit(config)


@pytest.mark.parametrize("library", ["tokenizers", "transformers", "jinja2", "datasets", "pyarrow"])
def test_another_version_of_a_library_misses(config, library, monkeypatch):
    known = cache_key.version
    changed = lambda name: known(name) + (".post1" if name == library else "")  # noqa: E731
    monkeypatch.setattr(cache_key, "version", changed)
    assert not is_hit(config)

from __future__ import annotations

import os
import shutil
import tempfile

# Before any library is imported: nothing in the suite may reach for a hub or fork after threads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run side by side, one a core: more threads than that would wait for each other, busily.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nor write to the user's own caches.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ft-caches-")

from pathlib import Path

import pytest
import torch

import runs
import tiny

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_collection_modifyitems(items):
    no_gpu = pytest.mark.skip(reason="no CUDA device here")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        for mark in item.iter_markers("real_weights"):
            folder = mark.kwargs.get("folder", "FT_SMOLLM2")
            if not os.environ.get(folder):
                item.add_marker(pytest.mark.skip(reason=f"{folder} names no folder with weights"))


def pytest_unconfigure():
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    runs.end_started()


@pytest.fixture(scope="session")
def tiny_llamas(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny Llamas, one a tokenizer family: llama, chatml, gpt2, and chatml-tied."""
    root = tmp_path_factory.mktemp("models")
    folders = {name: tiny.save_tiny_llama(root / name, name) for name in tiny.TOKENIZERS}
    folders["chatml-tied"] = tiny.save_tiny_llama(root / "chatml-tied", "chatml", tie=True)
    return folders


@pytest.fixture(scope="session")
def tiny_llama(tiny_llamas) -> Path:
    return tiny_llamas["chatml"]


@pytest.fixture(scope="session")
def tiny_encoders(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny encoders without a head: distilbert, bert, roberta."""
    root = tmp_path_factory.mktemp("encoders")
    families = ("distilbert", "bert", "roberta")
    return {family: tiny.save_tiny_encoder(root / family, family) for family in families}


@pytest.fixture(params=list(tiny.TOKENIZERS))
def any_tokenizer(request):
    return tiny.TOKENIZERS[request.param]()

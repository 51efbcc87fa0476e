"""`ft preprocess`: tokenizes a config's data ahead, or says that it is done already."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ft.cli.display import run_display
from ft.cli.output import say
from ft.data.feed import TrainingData
from ft.data.obtain import TokenCache, token_cache
from ft.data.prepare import LazyTokenizer
from ft.data.stream import prepare_training_data
from ft.model.tokenizer_identity import tokenizer_identity
from ft.spec import LoadedSpec, RunSpec
from ft.train.claim import located_spec


def preprocess(loaded: LoadedSpec) -> None:
    """Builds the tokenized cache of a config, unless it is there, and says what is in it.

    Raises:
        UserError: Something is not there, or `ft train` would refuse this data.
        MachineError: No space for it.
    """
    spec = located_spec(loaded)
    if spec.data.streaming and not spec.data.test_datasets:
        say("nothing to do: with streaming: true, records are tokenized while the run trains")
        return
    load = cache(lambda: _load_tokenizer(spec))
    if (tokens := _cache(spec)) is None:
        load()  # which brings the files of a hub tokenizer here
        tokens = _cache(spec)
    with run_display() as display:
        data = prepare_training_data(
            spec.data,
            tokenizer=LazyTokenizer(load),
            seed=spec.training.seed,
            base_dir=loaded.path.parent,
            on_progress=lambda phase, done, total: display(
                {"event": "progress", "phase": phase, "done": done, "total": total}
            ),
            cache=tokens,
        )
    for line in data.report.render():
        say(line)
    for line in _places(data):
        say(line)


def _cache(spec: RunSpec) -> TokenCache | None:
    folder, identity = spec.data.dataset_prepared_path, tokenizer_identity(spec.model)
    return token_cache(folder, identity, is_thorough=False)  # `ft train` will look at every byte


def _load_tokenizer(spec: RunSpec) -> Any:
    from ft.model.tokenizer import load_tokenizer

    return load_tokenizer(spec.model, writes=not spec.data.is_classification).tokenizer


def _places(data: TrainingData) -> list[str]:
    """Where the tokens are."""
    if not data.entries:
        return ["nothing is kept: `ft train` will tokenize anew"]
    verb = "up to date" if data.report.is_from_cache else "kept"
    return [f"{verb}: {entry} ({_size(entry)})" for entry in data.entries]


def _size(folder: Path) -> str:
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return f"{num_bytes / 1e6:,.1f} MB"

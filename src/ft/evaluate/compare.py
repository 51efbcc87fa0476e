"""`ft eval`: held-out loss and exact match, base beside tuned."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from torch import nn

from ft.data import TokenizedSet, prepare_data
from ft.data.batches import Padded
from ft.data.tokenize import split_response
from ft.evaluate.answer import Answerer, answerer_of
from ft.evaluate.generate import Sampling
from ft.evaluate.metrics import METRICS
from ft.evaluate.objective import SupervisedTuning, held_out_loss
from ft.evaluate.trained import TrainedRun, open_run
from ft.model import LoadedModel
from ft.model.tokenizer import load_saved_tokenizer
from ft.runtime import Problem, RunDirectory, UserError
from ft.runtime.durable import write_json

OnEvent = Callable[[dict[str, Any]], None]
NUM_EXAMPLES = 5


def compare_with_base(
    directory: RunDirectory,
    *,
    num_records: int,
    batch_size: int,
    max_new_tokens: int,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Measures the base and the tuned model on the run's held-out records.

    The loss is over all of them; ``num_records`` of them are answered (greedily) and compared with
    their references by each metric. The result is also written to evaluation.json.

    Raises:
        UserError: no finished run, or one without held-out records, or without a base beside it.
    """
    run = open_run(directory.path)
    heldout = _held_out_records(run, on_event)
    on_event({"event": "progress", "phase": "loading model", "done": 0, "total": None})
    loaded = run.load()
    if not loaded.has_adapter:
        raise UserError(
            Problem(
                "is a full fine-tune: base beside tuned needs an adapter, for now",
                str(directory.path),
                fix="events.jsonl has the held-out loss over the steps, the base's at step 0",
            )
        )
    result: dict[str, Any] = {
        "num_heldout_records": len(heldout),
        "num_answered": min(num_records, len(heldout)),
        "max_new_tokens": max_new_tokens,
    }
    answers: dict[str, list[dict[str, Any]]] = {}
    for name, is_base in (("base", True), ("tuned", False)):
        with _form_of(loaded, is_base=is_base), loaded.inference() as model:
            loss = _loss(loaded, model, heldout, batch_size)
        answerer = answerer_of(run, loaded, is_base=is_base)
        sampling = Sampling(max_new_tokens=max_new_tokens)
        answers[name] = _answer(
            answerer, heldout, result["num_answered"], batch_size, sampling, name, on_event
        )
        scores = {
            metric: float(np.mean([each[metric] for each in answers[name]])) for metric in METRICS
        }
        result[name] = {"loss": loss, **scores}
    result["answers"] = _beside_each_other(answers)
    write_json(directory.evaluation, result)
    return result


def _held_out_records(run: TrainedRun, on_event: OnEvent) -> TokenizedSet:
    """The run's held-out records, made again from its data; prompts are masked."""
    if run.spec is None or run.config_folder is None:
        raise UserError(
            Problem("is a merged model; its run knows the held-out records", str(run.folder))
        )
    data = prepare_data(
        run.spec.data.model_copy(update={"train_on_inputs": False}),
        tokenizer=load_saved_tokenizer(run.folder).tokenizer,
        seed=run.spec.training.seed,
        base_dir=run.config_folder,
        on_progress=lambda phase, done, total: on_event(
            {"event": "progress", "phase": phase, "done": done, "total": total}
        ),
    )
    if data.heldout is None or not len(data.heldout):
        raise UserError(
            Problem(
                "has no held-out records",
                str(run.folder),
                fix="train with val_set_size: 0.05, or with test_datasets",
            )
        )
    before = RunDirectory(run.folder).read_run()["data"]["fingerprint"]
    if not run.spec.data.train_on_inputs and data.train.fingerprint() != before:
        raise UserError(
            Problem(
                "the data changed since this run: held-out records may have been trained on",
                str(run.folder),
                fix="restore the data that the run was trained with",
            )
        )
    return data.heldout


def _form_of(loaded: LoadedModel, *, is_base: bool) -> AbstractContextManager[Any]:
    return loaded.without_adapter() if is_base else nullcontext()


def _loss(loaded: LoadedModel, model: nn.Module, heldout: TokenizedSet, batch_size: int) -> float:
    pad_token_id = loaded.tokenizer.tokenizer.pad_token_id
    objective = SupervisedTuning(Padded(pad_token_id))
    return held_out_loss(objective, model, heldout, batch_size=batch_size, device=loaded.device)


def _answer(
    answerer: Answerer,
    heldout: TokenizedSet,
    num_records: int,
    batch_size: int,
    sampling: Sampling,
    name: str,
    on_event: OnEvent,
) -> list[dict[str, Any]]:
    """Each record's prompt, reference, answer, and what the metrics say of it."""
    rows_asked = [heldout[i] for i in range(num_records)]
    pairs = [split_response(row.input_ids.tolist(), row.labels.tolist()) for row in rows_asked]
    # Prompts of like length share a batch: less padding, the same answers.
    order = sorted(range(num_records), key=lambda i: len(pairs[i][0]))
    rows: list[dict[str, Any]] = [{} for _ in pairs]
    started = time.perf_counter()
    for start in range(0, num_records, batch_size):
        chosen = order[start : start + batch_size]
        texts = answerer.answers([pairs[i][0] for i in chosen], sampling)
        for i, text in zip(chosen, texts, strict=True):
            reference = answerer.shown(pairs[i][1])
            scores = {metric: score(text, reference) for metric, score in METRICS.items()}
            rows[i] = {
                "record": str(heldout[i].origin),
                "reference": reference,
                "answer": text,
                **scores,
            }
        on_event(
            {
                "event": "progress",
                "phase": f"answering ({name})",
                "done": start + len(chosen),
                "total": num_records,
                "time_s": time.perf_counter() - started,
            }
        )
    return rows


def _beside_each_other(answers: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "record": tuned["record"],
            "reference": tuned["reference"],
            "base": base["answer"],
            "tuned": tuned["answer"],
            "exact_match": tuned["exact_match"],
        }
        for base, tuned in zip(answers["base"], answers["tuned"], strict=True)
    ]

"""`ft eval`: held-out loss and exact match, base beside tuned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ft.data import TokenizedSet
from ft.data.batches import Padded
from ft.data.stream import prepare_training_data
from ft.data.tokenize import split_response
from ft.evaluate.answer import Answerer, answerer_of
from ft.evaluate.compare_labels import compare_labels
from ft.evaluate.generate import Sampling
from ft.evaluate.metrics import METRICS
from ft.evaluate.objective import held_out_loss
from ft.evaluate.token_losses import text_objective
from ft.evaluate.trained import TrainedRun, open_run
from ft.model.tokenizer import load_saved_tokenizer
from ft.runtime import OnEvent, Problem, RunDirectory, UserError
from ft.runtime.durable import write_json
from ft.runtime.trust import is_trusted_code
from ft.spec import RunSpec

NUM_EXAMPLES = 5


def compare_with_base(
    directory: RunDirectory,
    *,
    num_records: int,
    batch_size: int,
    max_new_tokens: int | None = None,
    trusts_code: bool = False,
    on_event: OnEvent,
) -> dict[str, Any]:
    """Measures the base and the tuned model on the run's held-out records.

    The loss is over all of them; ``num_records`` of them are answered (greedily) and compared with
    their references by each metric. Records without a prompt (``completion``) have a loss alone.
    ``max_new_tokens`` None gives an answer half as much room again as the longest reference has:
    one that is longer is wrong anyhow, and an untuned base never stops. The result is also written
    to evaluation.json.

    Of a classifier the task's metrics are measured, over all of them.

    Raises:
        UserError: no finished run, or one without held-out records.
    """
    run = open_run(directory.path, trusts_code=trusts_code)
    heldout = _held_out_records(run, trusts_code=trusts_code, on_event=on_event)
    if run.labels is not None:
        on_event({"event": "progress", "phase": "telling labels", "done": 0, "total": None})
        told = compare_labels(run, heldout, batch_size=batch_size)
        result = {"num_heldout_records": len(heldout), **told}
        write_json(directory.evaluation, result)
        return result
    asked = _questions(heldout, num_records)
    max_new_tokens = max_new_tokens or _room_for_answers(asked)
    result = {
        "num_heldout_records": len(heldout),
        "num_answered": len(asked),
        "max_new_tokens": max_new_tokens,
    }
    answers: dict[str, list[dict[str, Any]]] = {}
    on_event({"event": "progress", "phase": "loading model", "done": 0, "total": None})
    for name, answerer in _base_and_tuned(run):
        loss = _loss(answerer, run.spec, heldout, batch_size)
        sampling = Sampling(max_new_tokens=max_new_tokens)
        answers[name] = _answer(answerer, asked, batch_size, sampling, name, on_event)
        scores = {
            metric: float(np.mean([each[metric] for each in answers[name]])) if asked else None
            for metric in METRICS
        }
        result[name] = {"loss": loss, **scores}
        del answerer  # of two whole models, one at a time
    result["answers"] = _beside_each_other(answers)
    write_json(directory.evaluation, result)
    return result


@dataclass(frozen=True)
class _Question:
    """A held-out record, cut where its last response begins."""

    record: str
    prompt: list[int]
    response: list[int]


def _questions(heldout: TokenizedSet, num_records: int) -> list[_Question]:
    """The first records that have a prompt at all."""
    questions: list[_Question] = []
    for row in heldout:
        prompt, response = split_response(row.input_ids.tolist(), row.labels.tolist())
        if prompt and len(questions) < num_records:
            questions.append(_Question(str(row.origin), prompt, response))
    return questions


def _room_for_answers(asked: list[_Question]) -> int:
    longest = max((len(question.response) for question in asked), default=1)
    return longest + longest // 2 + 1


def _held_out_records(run: TrainedRun, *, trusts_code: bool, on_event: OnEvent) -> TokenizedSet:
    """The run's held-out records, made again from its data; prompts are masked."""
    if run.spec is None or run.config_folder is None:
        raise UserError(
            Problem("is a merged model; its run knows the held-out records", str(run.folder))
        )
    data = prepare_training_data(
        run.spec.data.model_copy(update={"train_on_inputs": False}),
        tokenizer=load_saved_tokenizer(run.folder).tokenizer,
        seed=run.spec.training.seed,
        base_dir=run.config_folder,
        allow_code=lambda sha256: trusts_code or is_trusted_code(sha256),
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
    if not run.spec.data.train_on_inputs and data.fingerprint() != before:
        raise UserError(
            Problem(
                "the data changed since this run: held-out records may have been trained on",
                str(run.folder),
                fix="restore the data that the run was trained with",
            )
        )
    return data.heldout


def _base_and_tuned(run: TrainedRun) -> Iterator[tuple[str, Answerer]]:
    """The two to compare: one model with its adapter off and on, or two whole ones in turn."""
    if run.adapter.adapter is None:
        yield "base", answerer_of(run, run.load_base())
        yield "tuned", answerer_of(run, run.load())
    else:
        loaded = run.load()
        yield "base", answerer_of(run, loaded, is_base=True)
        yield "tuned", answerer_of(run, loaded)


def _loss(
    answerer: Answerer, spec: RunSpec | None, heldout: TokenizedSet, batch_size: int
) -> float:
    """As evaluations of the run tell it: a mean over weights, where records have some."""
    assert spec is not None, "a merged model has no held-out records"
    num_leading = 0 if answerer.is_base else answerer.loaded.attached.num_leading_logits
    layout = Padded(answerer.tokenizer.pad_token_id, num_leading)
    objective = text_objective(spec.training, spec.data, layout, None, has_loss_head=False)
    device = answerer.loaded.device
    with answerer.asked() as model:
        return held_out_loss(objective, model, heldout, batch_size=batch_size, device=device)


def _answer(
    answerer: Answerer,
    asked: list[_Question],
    batch_size: int,
    sampling: Sampling,
    name: str,
    on_event: OnEvent,
) -> list[dict[str, Any]]:
    """Each record's prompt, reference, answer, and what the metrics say of it."""
    # Prompts of like length share a batch: less padding, the same answers.
    order = sorted(range(len(asked)), key=lambda i: len(asked[i].prompt))
    rows: list[dict[str, Any]] = [{} for _ in asked]
    started = time.perf_counter()
    for start in range(0, len(asked), batch_size):
        chosen = order[start : start + batch_size]
        texts = answerer.answers([asked[i].prompt for i in chosen], sampling)
        for i, text in zip(chosen, texts, strict=True):
            reference = answerer.shown(asked[i].response)
            scores = {metric: score(text, reference) for metric, score in METRICS.items()}
            rows[i] = {
                "record": asked[i].record,
                "reference": reference,
                "answer": text,
                **scores,
            }
        on_event(
            {
                "event": "progress",
                "phase": f"answering ({name})",
                "done": start + len(chosen),
                "total": len(asked),
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

"""`ft plan`: memory by part, time, cost, the fastest settings that fit; for any GPU."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from ft.cli.outlook import Outlook
from ft.cli.output import say
from ft.cli.plan_text import card_table, plan_lines
from ft.data.obtain import token_cache
from ft.data.stream import prepare_training_data
from ft.model import Hardware, available_memory_bytes, load_tokenizer, probe_hardware
from ft.model.tokenizer_identity import tokenizer_identity
from ft.plan import COMMON, Card, card_of, find_card
from ft.plan.memory import CUDA_CONTEXT_BYTES
from ft.runtime import UserError
from ft.spec import LoadedSpec, RunSpec
from ft.train.claim import located_spec
from ft.train.planning import Planner
from ft.train.workload import Rows, rows_of_data, rows_per_device

AMPERE = (8, 0)


def show_plan(loaded: LoadedSpec, *, gpu: str | None, price: float | None, as_json: bool) -> None:
    """Prints the plan for a named card, for this one, or a table over usual ones.

    Raises:
        UserError: data or model can't be read; there is no card of that name.
        MachineError: it does not fit, with the cheapest change that would.
    """
    card = find_card(gpu) if gpu else None
    spec = located_spec(loaded)
    if spec.data.is_classification:
        what = "ft plan counts models that write, not yet those that tell labels"
        fix = "ft train runs without a plan; ft validate counts its steps"
        raise UserError(loaded.problem(("task_type",), what, fix))
    rows, num_tokens = _rows(loaded, spec)
    here = probe_hardware()
    if card is None and here.kind != "cuda":
        cards = [
            _outlook(_planner(spec, rows, num_tokens, find_card(name)), price) for name in COMMON
        ]
        _show_cards(rows, cards, as_json=as_json)
        return
    if card is not None:
        planner = _planner(spec, rows, num_tokens, card)
    else:
        planner = Planner(spec, rows, here, available_memory_bytes(here), num_tokens)
    outlook = _outlook(planner, price)
    if as_json:
        say(json.dumps({"rows": asdict(rows), **outlook.to_json()}))
    else:
        for line in plan_lines(outlook, rows):
            say(line)
    if outlook.plan is None:
        raise planner.does_not_fit(outlook.least.memory.total if outlook.least else None)


def _show_cards(rows: Rows, cards: list[Outlook], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"rows": asdict(rows), "gpus": [card.to_json() for card in cards]}))
        return
    say("no CUDA GPU here; on usual ones (--gpu NAME tells more of one):")
    for line in card_table(cards):
        say(line)


def _rows(loaded: LoadedSpec, spec: RunSpec) -> tuple[Rows, int]:
    """The run's rows, and the size of its vocabulary."""
    tokenizer = load_tokenizer(spec.model)
    data = prepare_training_data(
        spec.data,
        tokenizer=tokenizer.tokenizer,
        seed=spec.training.seed,
        base_dir=loaded.path.parent,
        on_progress=None,
        cache=token_cache(spec.data.dataset_prepared_path, tokenizer_identity(spec.model)),
        on_news=lambda lines: None,
    )
    return rows_of_data(data, spec), len(tokenizer.tokenizer)


def hardware_of(card: Card) -> Hardware:
    """The card as if it were here, with torch's own kernels."""
    return Hardware(
        kind="cuda",
        name=card.name,
        capability=card.capability,
        memory_bytes=card.memory_bytes,
        supports_bf16=card.capability >= AMPERE,
        has_flash_attn=False,
        has_varlen=card.capability >= AMPERE,
    )


def _planner(spec: RunSpec, rows: Rows, num_tokens: int, card: Card) -> Planner:
    available = card.memory_bytes - CUDA_CONTEXT_BYTES
    return Planner(spec, rows, hardware_of(card), available, num_tokens)


def _outlook(planner: Planner, price: float | None) -> Outlook:
    spec, rows, hardware = planner.spec, planner.rows, planner.hardware
    plan = planner.counted_plan()
    count = rows_per_device(spec)
    steps_per_epoch = None if rows.num_rows is None else math.ceil(rows.num_rows / count)
    num_steps = spec.training.max_steps
    if num_steps is None and steps_per_epoch is not None:
        num_steps = math.ceil(steps_per_epoch * spec.training.num_epochs)
    known = card_of(hardware.name)
    return Outlook(
        card=known.name if known else hardware.name,
        memory_bytes=hardware.memory_bytes,
        plan=plan,
        least=planner.smallest() if plan is None else None,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        tokens_per_step=rows.mean * count,
        price_per_hour=price,
    )

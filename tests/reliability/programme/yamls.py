"""Wrong configs, drawn from real ones: read, or refused with words at a line that is there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import yaml_fuzz

from programme.bench import Bench, Outcome
from programme.forks import Fork

LIMIT_S = 1.5
"""Of processor time; the shared machine's clock says little."""


def wrong_yamls(bench: Bench, first: int, count: int) -> Outcome:
    """So many, in a process of their own."""
    folder = bench.folder / f"yamls-{first}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    process = Fork(_try_all, folder, first, count, output=folder / "said")
    outcome = Outcome()
    outcome.expect(process.wait(600) == 0, process.said())
    for number, fault, is_refused, cpu_s in json.loads((folder / "verdicts.json").read_text()):
        outcome.counts["yamls"] += 1
        outcome.counts["refused"] += is_refused
        outcome.expect(not fault, f"{number}: {fault}", without_fault=1)
        outcome.expect(cpu_s < LIMIT_S, f"{number}: took {cpu_s:.2f} s")
    shutil.rmtree(folder)
    return outcome


def _try_all(folder: Path, first: int, count: int) -> None:
    below = folder / "configs"
    below.mkdir()
    os.chdir(below)
    config = yaml_fuzz.prepare_folder(below)
    verdicts = []
    for number in range(first, first + count):
        verdict = yaml_fuzz.try_config(yaml_fuzz.wrong_config(number), config)
        verdicts.append((number, verdict.fault, verdict.is_refused, verdict.cpu_s))
    (folder / "verdicts.json").write_text(json.dumps(verdicts))

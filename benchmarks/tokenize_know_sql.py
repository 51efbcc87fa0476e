"""How fast records become cached tokens: know_sql-like rows, `ft preprocess`, time and memory.

    python benchmarks/tokenize_know_sql.py KNOW_SQL.jsonl MODEL_FOLDER [--rows 1000000] [--runs 3]

KNOW_SQL.jsonl holds records of question, context, answer, and is repeated to the number of rows;
MODEL_FOLDER holds a tokenizer and a config.json. Prints a JSON line a run: building, then a hit.
Memory is the sum of the resident sets of all processes, sampled; shared pages count in each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SAMPLE_TIME_S = 0.1


def main() -> None:
    """Builds and hits, so many times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("records", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = _write_config(folder, options.records, options.model.resolve(), options.rows)
        for _ in range(options.runs):
            for kind in ("build", "hit"):
                print(json.dumps({"kind": kind, "rows": options.rows} | _measure(config)))
            shutil.rmtree(folder / "cache")


def _write_config(folder: Path, records: Path, model: Path, num_rows: int) -> Path:
    lines = records.read_text(encoding="utf-8").splitlines()
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for line in itertools.islice(itertools.cycle(lines), num_rows):
            file.write(line + "\n")
    values = {
        "base_model": str(model),
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": "context_qa.load_v2"}],
        "dataset_prepared_path": str(folder / "cache"),
        "sequence_len": 512,
        "learning_rate": 1e-4,
    }
    config = folder / "run.yml"
    config.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return config


def _measure(config: Path) -> dict[str, float]:
    """Wall time, processor time, and the largest sum of resident sets of one `ft preprocess`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ft", "preprocess", str(config)], stdout=subprocess.DEVNULL
    )
    peaks = [0]
    sampler = threading.Thread(target=_sample, args=(process, peaks))
    sampler.start()
    code = process.wait()
    time_s = time.perf_counter() - started
    sampler.join()
    if code:
        sys.exit(f"ft preprocess exited with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_time_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "time_s": round(time_s, 2),
        "cpu_time_s": round(cpu_time_s, 2),
        "peak_rss_mb": round(peaks[0] / 1e6),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _sample(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    while process.poll() is None:
        peaks[0] = max(peaks[0], sum(map(_resident_bytes, _family(process.pid))))
        time.sleep(SAMPLE_TIME_S)


def _family(pid: int) -> list[int]:
    """A process and everything that descends from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident_bytes(pid: int) -> int:
    try:
        num_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return num_pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()

"""One of two processes of a run is killed, stopped or raises: all leave, and the run goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from programme.bench import EVERY_STEP, Bench, Life, Outcome, require_equal_runs
from runs import start_ft, wait_for

ALL_LEAVE_WITHIN_S = 30.0
LOSSES_A_CHAIN = 5
_STRATEGY = """
import os
from pathlib import Path

class Strategy:
    supports_batched = False

    def tokenize_prompt(self, prompt):
        if os.environ.get("RANK") == "1" and Path(__file__).with_name("raise-now").exists():
            raise RuntimeError("only here")
        ids = [5 + ord(letter) % 300 for letter in prompt["question"]]
        return {"input_ids": ids, "labels": list(ids), "attention_mask": [1] * len(ids)}

def load(tokenizer, cfg):
    return Strategy()
"""
"""Of a stream, so that records are made ready while the run is under way."""
_KEYS = EVERY_STEP | {
    "num_records": 400, "streaming": True, "streaming_multipack_buffer_size": 32,
    "dataset_num_proc": 1, "max_steps": 120, "lora_dropout": 0.1,
}  # fmt: skip


def chain_of_losses(bench: Bench, number: int, num_losses: int = LOSSES_A_CHAIN) -> Outcome:
    """Loses a process at a random step, starts the run again, and so on; then it ends."""
    outcome, draw = Outcome(), random.Random(number)
    reference = bench.folder / "reference-lost" / "run.yml"
    if not (reference.parent / "out" / "run.json").exists():
        _config(bench, reference.parent.name)
    _end_well(outcome, reference)
    config = _config(bench, f"lost-{number}")
    life = Life(config.parent / "out")
    for _ in range(num_losses):
        _lose_one(outcome, config, life, draw)
        life.end(outcome)
        outcome.counts["losses"] += 1
    _end_well(outcome, config)
    life.end(outcome)
    require_equal_runs(outcome, reference.parent / "out", life.out)
    bench.clear(config)
    return outcome


def _lose_one(outcome: Outcome, config: Path, life: Life, draw: random.Random) -> None:
    """All must leave in time, with words that name the lost one."""
    flag = config.with_name("raise-now")
    how, rank = draw.choice([("kill", 0), ("kill", 1), ("stop", 0), ("stop", 1), ("raise", 1)])
    command = start_ft("train", config, "--processes", 2)
    step = life.committed + draw.randrange(1, 4)
    wait_for(lambda: life.has_begun() and life.has_told_step(step), command)
    ranks = processes_of(command)
    outcome.expect(sorted(ranks) == [0, 1], f"processes {ranks}")
    lost_at = time.monotonic()
    if how == "raise":
        flag.touch()
    else:
        os.kill(ranks[rank], signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    _, error = command.communicate(timeout=120)
    took_s = time.monotonic() - lost_at
    flag.unlink(missing_ok=True)
    code, words = _EXPECTED[how]
    is_told = command.returncode == code and f"process {rank} of 2" in error and words in error
    outcome.expect(is_told, f"{how} {rank}: exit code {command.returncode}, {error}", told=1)
    outcome.expect(took_s < ALL_LEAVE_WITHIN_S, f"{how} {rank}: {took_s:.0f} s", in_time=1)
    left = [process_id for process_id in ranks.values() if not is_gone(process_id)]
    outcome.expect(not left, f"{how} {rank}: {len(left)} orphans", without_orphans=1)


_EXPECTED = {
    "kill": (3, "was killed by SIGKILL"), "stop": (3, "is stopped"), "raise": (2, "only here"),
}  # fmt: skip


def _config(bench: Bench, name: str) -> Path:
    data = str(bench.folder / name / "data.jsonl")
    config = bench.config(name, datasets=[{"path": data, "type": "./raises.py"}], **_KEYS)
    config.with_name("raises.py").write_text(_STRATEGY)
    return config


def _end_well(outcome: Outcome, config: Path) -> None:
    command = start_ft("train", config, "--processes", 2)
    _, error = command.communicate(timeout=600)
    outcome.expect(command.returncode == 0, f"exit code {command.returncode}: {error}")


def processes_of(group: subprocess.Popen[str]) -> dict[int, int]:
    """Rank -> process id of those that the command started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        ranks = [int(e.removeprefix(b"RANK=")) for e in environment if e.startswith(b"RANK=")]
        if parent == group.pid and ranks:
            found[ranks[0]] = int(folder.name)
    return found


def is_gone(process_id: int) -> bool:
    """Ended; one that its dead parent has not reaped counts as ended."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"

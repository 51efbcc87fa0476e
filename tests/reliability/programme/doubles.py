"""Two runs in one directory: the second one leaves at once, and a killed one leaves no lock."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

from programme.bench import EVERY_STEP, KINDS, Bench, Life, Outcome, start

SECOND_LEAVES_WITHIN_S = 2.0
_ENDLESS = KINDS["lora"] | EVERY_STEP | {"num_epochs": 100_000}


def double_starts(bench: Bench, number: int, num_starts: int = 5) -> Outcome:
    """A second `ft train`, as fresh as the shell starts it; then the first is killed, and goes on."""
    outcome, config = Outcome(), bench.config(f"doubles-{number}", **_ENDLESS)
    life, most_s = Life(config.parent / "out"), 0.0
    for _ in range(num_starts):
        holder = start(config)
        holder.wait_until(life.has_begun)
        outcome.expect(holder.poll() is None, f"no lock was left, but {holder.said()}")
        before, used_s = time.monotonic(), _used_by_children_s()
        second = subprocess.run(
            [sys.executable, "-m", "ft", "train", str(config)],
            capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ),
        )  # fmt: skip
        outcome.counts["within_2_s"] += time.monotonic() - before < SECOND_LEAVES_WITHIN_S
        most_s = max(most_s, _used_by_children_s() - used_s)
        is_refused = second.returncode == 2 and f"in use by process {holder.pid}" in second.stderr
        outcome.expect(is_refused, f"{second.returncode}: {second.stderr[-500:]}", refused=1)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        life.end(outcome)
        outcome.counts["starts"] += 1
    is_quick = most_s < SECOND_LEAVES_WITHIN_S
    outcome.expect(is_quick, f"a second run took {most_s:.1f} s of processor time to leave")
    bench.clear(config)
    return outcome


def _used_by_children_s() -> float:
    """Processor time: what the clock says depends on who else is on the machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

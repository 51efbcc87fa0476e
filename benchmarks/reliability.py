"""The whole programme of faults, as far as one command can make them; results on reliability.md.

    python benchmarks/reliability.py --work DIR

Stopped, it goes on where it was: DIR/ledger.jsonl has what was done. ``--only kills`` does a part,
``--again kills`` forgets what a part came to, ``--table`` says what is there. ``--gpu`` is the part
of it that a card has other ways to fail: QLoRA, in a DIR of its own; ``lost`` takes two cards.
``--share 1/4`` does a quarter of the trials: four commands beside each other, each with its DIR.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests/reliability")]


def main() -> int:
    """Does what is left to do; the number of faults decides the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="*", default=[], metavar="PART")
    parser.add_argument("--again", nargs="*", default=[], metavar="PART")
    parser.add_argument("--gpu", action="store_true", help="QLoRA on a card: see above")
    parser.add_argument("--share", type=_share, default=(0, 1), metavar="1/4", help="of the trials")
    parser.add_argument("--table", action="store_true", help="say what is there, do nothing")
    arguments = parser.parse_args()
    if arguments.gpu and not torch.cuda.is_available():
        parser.error("--gpu: torch sees no CUDA device here")
    work: Path = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(work / "caches"),
        "PYTHONPATH": os.pathsep.join(PATHS),
    }
    sys.path[:0] = PATHS

    from programme.bench import Bench
    from programme.parts import GPU_KEYS, GPU_PARTS, PARTS, Ledger, run_parts, share_of, table

    import tiny

    base = work / "base"
    if not base.exists():
        tiny.save_tiny_llama(base)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # disks are unmounted, processes ended
    ledger = Ledger(work / "ledger.jsonl")
    for name in arguments.again:
        ledger.forget(name)
    parts, keys = (GPU_PARTS, GPU_KEYS) if arguments.gpu else (PARTS, {})
    parts = share_of(parts, *arguments.share)
    if not arguments.table:
        bench = Bench(work / "runs", base, keys)
        for line in run_parts(parts, bench, ledger, arguments.only):
            print(line, flush=True)
    print(table(parts, ledger))
    return int(any(record["faults"] for record in ledger.records()))


def _share(text: str) -> tuple[int, int]:
    number, _, num_shares = text.partition("/")
    if not (number.isdecimal() and num_shares.isdecimal() and 1 <= int(number) <= int(num_shares)):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of so many shares, such as 1/4")
    return int(number) - 1, int(num_shares)


if __name__ == "__main__":
    sys.exit(main())

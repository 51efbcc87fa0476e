"""How full packs are, and how long it takes to make them.

    python benchmarks/packing.py [CONFIG --key value ...]

Without a config: lengths drawn from distributions, a million of each. With one: the records of its
data sets as its tokenizer and layout make them, once and repeated to a million.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from ft.data.packing import pack

NUM_RECORDS = 1_000_000


def main() -> None:
    """Prints a Markdown table."""
    print("| lengths | records | capacity | packs | full | pack, s (CPU s) | an epoch, s (CPU s) |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    sets = lengths_of(Path(sys.argv[1]), sys.argv[2:]) if len(sys.argv) > 1 else drawn_lengths()
    for name, lengths, capacity in sets:
        started = times()
        packing = pack(lengths, capacity)
        packed = times()
        packing.fill(np.random.default_rng([42, 0]))
        filled = times()
        print(
            f"| {name} | {len(lengths):,} | {capacity:,} | {packing.num_packs:,} "
            f"| {100 * packing.efficiency:.2f} % "
            f"| {between(started, packed)} | {between(packed, filled)} |"
        )


def times() -> tuple[float, float]:
    """Wall clock and processor time, seconds."""
    return time.perf_counter(), time.process_time()


def between(start: tuple[float, float], end: tuple[float, float]) -> str:
    """``wall (CPU)``, seconds."""
    return f"{end[0] - start[0]:.2f} ({end[1] - start[1]:.2f})"


def drawn_lengths() -> list[tuple[str, np.ndarray, int]]:
    """Short records, even ones, and ones of all sizes."""
    generator = np.random.default_rng(0)

    def lognormal(mean: float, sigma: float, longest: int) -> np.ndarray:
        return np.clip(generator.lognormal(mean, sigma, NUM_RECORDS).astype(int), 8, longest)

    return [
        ("short questions, lognormal around 74", lognormal(4.3, 0.4, 2048), 2048),
        ("chats, lognormal around 400", lognormal(6.0, 1.0, 8192), 8192),
        ("documents, lognormal around 1,100", lognormal(7.0, 1.2, 32768), 32768),
        ("even, 1 to 2,048", generator.integers(1, 2049, NUM_RECORDS), 2048),
        ("even, 1 to 8,192", generator.integers(1, 8193, NUM_RECORDS), 8192),
        ("even, 1 to 32,768", generator.integers(1, 32769, NUM_RECORDS), 32768),
        ("alike, 300 to 700", generator.integers(300, 701, NUM_RECORDS), 2048),
    ]


def lengths_of(config: Path, overrides: list[str]) -> list[tuple[str, np.ndarray, int]]:
    """The lengths of a config's training records."""
    from ft.data import prepare_data
    from ft.model import load_tokenizer
    from ft.spec import load_spec

    spec = load_spec(config, overrides).spec
    data = prepare_data(
        spec.data,
        tokenizer=load_tokenizer(spec.model).tokenizer,
        seed=spec.training.seed,
        base_dir=config.parent,
    )
    lengths, capacity = data.train.lengths, spec.data.sequence_len
    repeated = np.resize(lengths, NUM_RECORDS)
    return [(config.stem, lengths, capacity), (f"{config.stem}, repeated", repeated, capacity)]


if __name__ == "__main__":
    main()

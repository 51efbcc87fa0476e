"""`ft bench` in the terminal: the figures of a measurement, and its file."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft.bench import Records
from ft.cli.display import run_display
from ft.cli.output import say
from ft.runtime import UserError
from ft.runtime.durable import write_json
from ft.runtime.sizes import memory_size

_WIDTH = 22
_RECORDS = {
    Records.OWN: "the config's own",
    Records.FULL: "synthetic, every row of sequence_len tokens and trained whole",
    Records.SHORT: "synthetic, about 105 tokens each, a quarter of them trained",
}


def bench_config(
    config: Path, arguments: list[str], num_steps: int, num_warmup_steps: int, records: Records
) -> dict[str, Any]:
    """Measures a config.

    Args:
        config: The YAML file.
        arguments: Overrides, as typed.
        num_steps: Steps that count.
        num_warmup_steps: Steps before them.
        records: What goes through.

    Returns:
        As `ft.bench.record.record_of`.

    Raises:
        FtError: as `ft train`.
    """
    from ft.spec import load_spec

    loaded = load_spec(config, arguments)
    from ft.bench.spec import of_random_weights, settled
    from ft.cli.preflight import check_hub_names, check_inputs

    records = settled(records, loaded)
    drawn = of_random_weights(loaded, needs_tokenizer=records == Records.OWN)
    check_inputs(drawn, needs_data=records == Records.OWN)
    check_hub_names(drawn)
    for notice in loaded.notices:
        say(f"note: {notice}")
    say(f"records: {_RECORDS[records]}")
    from ft.bench.measure import BenchOptions, measure
    from ft.bench.record import record_of

    with run_display() as display:
        measured = measure(
            loaded, BenchOptions(num_steps, num_warmup_steps, records), on_event=display
        )
    return record_of(measured, _command())


def _command() -> str:
    return shlex.join(["ft", *sys.argv[1:]])


def write_record(record: dict[str, Any], file: Path) -> None:
    """Writes the measurement as JSON.

    Raises:
        UserError: the file can't be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, record)
    except OSError as error:
        raise UserError(f"--json: {file}: can't be written: {error.strerror}") from None


def lines_of(record: dict[str, Any]) -> Iterator[str]:
    """The measurement, a line a figure."""
    time_s, shape = record["step_time_s"], record["pass"]
    yield _line(
        "speed",
        f"{record['tokens_per_s']:,.0f} tokens/s, "
        f"{record['trained_tokens_per_s']:,.0f} of them trained",
    )
    yield _line(
        "step",
        f"p20 {time_s['p20']:.4g} s, p50 {time_s['p50']:.4g} s, p80 {time_s['p80']:.4g} s; "
        f"{record['tokens_per_step']:,.0f} tokens in {_passes(record['passes_per_step'])} "
        f"(records of {shape['record_length']:,.0f})",
    )
    yield _line("peak memory", _memory(record))
    yield _line("MFU", f"{record['mfu']:.1%} of the measured product's rate")
    yield from _limit_lines(record["limits"], record["device"])
    yield from _ceiling_lines(record)
    yield _line("a step's parts", _shares(record["parts"]))
    yield from _kernel_lines(record["kernels"])


def _line(name: str, text: str) -> str:
    return f"{name + ':' if name else '':<{_WIDTH}}{text}"


def _passes(number: float) -> str:
    return f"{number:.3g} pass" if number == 1 else f"{number:.3g} passes"


def _memory(record: dict[str, Any]) -> str:
    if record["device"]["kind"] == "cuda":
        loading = memory_size(record["loading_peak_memory_bytes"])
        return f"{memory_size(record['peak_memory_bytes'])} (up to the warm-up: {loading})"
    return f"{memory_size(record['peak_memory_bytes'])} of the whole process"


def _limit_lines(limits: dict[str, Any], device: dict[str, Any]) -> Iterator[str]:
    side = limits["product_side"]
    place = "GPU" if device["kind"] == "cuda" else device["kind"].upper()
    yield _line(
        f"this {place} can",
        f"{limits['product_flops'] / 1e12:,.4g} TFLOP/s in a product of {side:,}^3; "
        f"copy {limits['copy_bytes_per_s'] / 1e9:,.4g} GB/s",
    )
    if limits["attention_flops"]:
        yield _line("", f"attention {limits['attention_flops'] / 1e12:,.4g} TFLOP/s")
    if limits["dequantization_bytes_per_s"]:
        rate = limits["dequantization_bytes_per_s"] / 1e9
        yield _line("", f"NF4 dequantization {rate:,.4g} GB/s of plain weights")


def _ceiling_lines(record: dict[str, Any]) -> Iterator[str]:
    ceilings = record["ceilings_tokens_per_s"]
    if not ceilings:
        yield _line("ceiling", "not known: the experts of a mixture are not measured")
        return
    for i, (how, rate) in enumerate(ceilings.items()):
        reached = record["tokens_per_s"] / rate
        yield _line("" if i else "ceiling", f"{rate:>9,.0f} tokens/s, {how}: {reached:.1%} of it")


def _shares(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in parts.items())


def _kernel_lines(kernels: dict[str, Any] | None) -> Iterator[str]:
    if kernels is None:
        return
    total_s = kernels["total_s"]
    shares = {name: time_s / total_s for name, time_s in kernels["by_kind_s"].items()}
    yield _line("kernels of one step", _shares(shares))
    yield _line(
        "",
        f"{kernels['num_kernels']:,} kernels, {total_s:.4g} s: "
        f"{kernels['share_of_step']:.1%} of a step",
    )

"""A preview's figures as text: what the terminal and the page have in common."""

from __future__ import annotations

from ft.cli.visible import Marks
from ft.data.account import Duplicates
from ft.data.lengths import Bucket
from ft.data.preview import StepsPreview
from ft.data.report import DatasetReport, count


def run_lines(steps: StepsPreview, sequence_len: int) -> list[tuple[str, str]]:
    """What the run comes to: label and text."""
    heldout = f", {steps.num_heldout:,} held out" if steps.num_heldout else ""
    noun = "pack" if steps.is_packed else "row"
    rows = f"{steps.num_rows:,} to train on{heldout}"
    size = f"{count(steps.rows_per_step, noun)} each (in one process)"
    length = f"{steps.num_steps:,} of {size}"
    if steps.steps_per_epoch is None:
        rows = f"a stream: this is its head, {count(steps.num_rows, 'row')}{heldout}"
    else:
        length = f"{steps.steps_per_epoch:,} an epoch of {size}; {steps.num_steps:,} in all"
    packing = [] if steps.num_packs is None else [("packing", _packs(steps, sequence_len))]
    return [("rows", rows), *packing, ("steps", length)]


def _packs(steps: StepsPreview, sequence_len: int) -> str:
    packs = (
        f"{count(steps.num_packs or 0, 'pack')} of {sequence_len:,} tokens, "
        f"{steps.packing_efficiency:.1%} full"
    )
    return packs if steps.is_packed else f"off; sample_packing: true would make {packs}"


def label_counts(report: DatasetReport) -> list[tuple[str, int, float]]:
    """Each label, how many records have it, and their share; the most frequent first."""
    by_number = sorted(report.num_of_label.items(), key=lambda item: -item[1])
    return [(name, number, number / max(report.num_kept, 1)) for name, number in by_number]


def repetition(found: Duplicates) -> str:
    """The first repeated row, and where it stood before."""
    if found.pair is None:
        return ""
    repeated, first = found.pair
    again = f"is {first} again" if repeated != first else "has the same row more than once"
    return f"{repeated} {again}"


def bucket_label(bucket: Bucket, marks: Marks) -> str:
    """The lengths that a bucket holds."""
    if bucket.first == bucket.last:
        return f"{bucket.first:,}"
    return f"{bucket.first:,}{marks.dash}{bucket.last:,}"


def bar(share: float, cells: int, marks: Marks) -> str:
    """A bar of up to `cells` characters; what is more than nothing has at least a sliver."""
    full, parts = marks.bar[0], marks.bar[1:]
    eighths = max(round(share * cells * 8), 1) if share > 0 else 0
    if not parts:
        return full * max(round(eighths / 8), eighths > 0)
    return full * (eighths // 8) + (parts[eighths % 8 - 1] if eighths % 8 else "")

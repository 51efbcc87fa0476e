"""`ft merge`: a finished run's adapter and its base become one model in RUN/merged."""

from __future__ import annotations

from typing import cast

from ft.evaluate.trained import open_run
from ft.model import choose_precision, probe_hardware
from ft.runtime import OnEvent, Problem, RunDirectory, UserError
from ft.ship.merge import Onto, merge_adapter


def merge_run(directory: RunDirectory, *, onto: str, on_event: OnEvent) -> list[str]:
    """Merges and checks; the layout of the prompt goes along, so that the model can be asked.

    Args:
        directory: A finished run with an adapter.
        onto: ``dequantized`` or ``plain``: which form of the base.
        on_event: Told of progress.

    Returns:
        Lines that say what was written and how far it is from the adapter.

    Raises:
        UserError: no finished run, or nothing to merge.
        FtError: the merged model does not answer like the adapter.
    """
    run = open_run(directory.path)
    if run.spec is None or run.adapter.adapter is None:
        raise UserError(Problem("is a full model already: nothing to merge", str(directory.path)))
    probes = [ids for ids in directory.read_run()["probe_input_ids"] if ids]
    if not probes:
        what = "is broken: it has no probes ('probe_input_ids'), so no merge can be proven"
        raise UserError(
            Problem(what, str(directory.run_file), fix="take it from a copy of the run")
        )
    hardware = probe_hardware()
    precision = choose_precision(run.precision, hardware, trains_all=False)

    def progress(phase: str, done: int, total: int | None) -> None:
        on_event({"event": "progress", "phase": phase, "done": done, "total": total})

    report = merge_adapter(
        run.folder,
        run.model,
        run.adapter,
        precision,
        hardware,
        out=directory.merged,
        onto=cast(Onto, onto),
        probe_input_ids=probes,
        extra_files=(directory.prompt_file,),
        on_progress=progress,
        head=run.head,
    )
    return report.render()

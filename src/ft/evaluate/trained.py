"""A finished run, or a merged model, opened for use: its spec, its prompt layouts, its model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft.data.layout import LabelOptions
from ft.data.prompt import PromptLayout
from ft.model import Head, LoadedModel, choose_precision, load_trained, load_untuned, probe_hardware
from ft.runtime import Problem, RunDirectory, UserError
from ft.runtime.trust import is_trusted_code
from ft.spec import AdapterSpec, ModelSpec, PrecisionSpec, RunSpec, load_spec

PROMPT_FORMAT = 1
_TAKE_A_COPY = "take it from a copy of the run, or train it again"


@dataclass(frozen=True)
class TrainedRun:
    """What a folder says of the model in it."""

    folder: Path
    model: ModelSpec
    adapter: AdapterSpec
    precision: PrecisionSpec
    layouts: tuple[PromptLayout, ...]
    spec: RunSpec | None
    """As run; None for a merged model, which stands for itself."""
    config_folder: Path | None
    """Where the YAML was, beside which strategies are looked up."""

    @property
    def labels(self) -> LabelOptions | None:
        """What it tells of a text; None for a model that writes."""
        return self.layouts[0].labels

    @property
    def head(self) -> Head | None:
        """What was put behind the body to tell it."""
        if self.labels is None:
            return None
        seed = 0 if self.spec is None else self.spec.training.seed
        return Head(self.labels.task, seed, self.model.ignore_mismatched_sizes)

    def load(self) -> LoadedModel:
        """The model as it was trained: same base, same quantization, same compute dtype.

        A full model's weights are held in the compute dtype: the fp32 masters are for training.
        """
        hardware = probe_hardware()
        precision = choose_precision(self.precision, hardware, trains_all=False)
        return load_trained(
            self.folder,
            self.model,
            self.adapter,
            precision,
            hardware=hardware,
            head=self.head,
        )

    def load_base(self) -> LoadedModel:
        """The base that a run of all parameters began with."""
        hardware = probe_hardware()
        precision = choose_precision(self.precision, hardware, trains_all=False)
        return load_untuned(self.folder, self.model, precision, hardware=hardware, head=self.head)


def open_run(folder: Path, *, trusts_code: bool = False) -> TrainedRun:
    """Reads what a run's folder, or a merged model's, says of itself.

    Args:
        folder: The folder.
        trusts_code: Strategy files that came with it may run; else only those that this user ran
            before, from a folder of theirs.

    Raises:
        UserError: it is neither, or the run has no final weights yet.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise UserError(Problem(what, str(folder), fix="name a run's folder"))
    run = RunDirectory(folder)
    if run.run_file.exists():
        return _open_finished(run, trusts_code=trusts_code)
    if (folder / "config.json").exists() and run.prompt_file.exists():
        model = ModelSpec(base_model=str(folder))
        precision = PrecisionSpec(bf16="auto")
        layouts = _read_layouts(run.prompt_file, trusts_code=trusts_code)
        return TrainedRun(folder, model, AdapterSpec(), precision, layouts, None, None)
    raise UserError(
        Problem(
            "is neither a run of ft (run.json) nor a model merged by it (config.json, prompt.json)",
            str(folder),
            fix="`ft train CONFIG` makes a run",
        )
    )


def _open_finished(run: RunDirectory, *, trusts_code: bool) -> TrainedRun:
    identity = run.read_run()
    if not identity["finished"]:
        raise UserError(
            Problem(
                "is not finished",
                str(run.path),
                fix=f"go on with: ft train {identity['config']}",
            )
        )
    spec = load_spec(run.resolved_spec).spec
    commit = identity.get("base_revision") or spec.model.revision_of_model
    return TrainedRun(
        run.path,
        spec.model.model_copy(update={"revision_of_model": commit}),  # whatever its branch is now
        spec.adapter,
        spec.precision,
        _read_layouts(run.prompt_file, trusts_code=trusts_code),
        spec,
        Path(identity["config"]).parent,
    )


def _read_layouts(path: Path, *, trusts_code: bool) -> tuple[PromptLayout, ...]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != PROMPT_FORMAT:
            what = f"is of format {content.get('format')!r}, and this ft reads {PROMPT_FORMAT}"
            fix = "use the ft that trained the run, or train it again"
            raise UserError(Problem(what, str(path), fix=fix))
        layouts = tuple(
            PromptLayout.from_json(layout, lambda sha256: trusts_code or is_trusted_code(sha256))
            for layout in content["layouts"]
        )
    except UserError as error:
        problems = (
            replace(problem, where=problem.where or str(path)) for problem in error.problems
        )
        raise UserError(*problems) from None
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise UserError(Problem(what, str(path), fix=_TAKE_A_COPY)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"is damaged: {type(error).__name__}: {error}"[:300]
        raise UserError(Problem(what, str(path), fix=_TAKE_A_COPY)) from None
    if not layouts:
        raise UserError(Problem("holds no prompt layout", str(path)))
    return layouts

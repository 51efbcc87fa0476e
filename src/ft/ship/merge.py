"""``ft merge``: adapter + base -> a full model, proven before it is put in place.

    trained form, with and without adapter  ->  its logits on the probes
    base in plain weights + adapter         ->  a layer at a time: W + delta in fp32, checked, cast
    staging folder                          ->  read back: every tensor the same, logits compared
    rename                                  ->  out/

An adapter that was trained on 4 or 8 bits is merged onto what those bits stand for
(``dequantized``): that is the function it learned to correct. ``plain`` takes the original weights
instead. Never is anything merged into 4 bits, which would round most of the adapter away.

What is proven: each layer with its adapter, as PEFT computes it unmerged, equals the merged layer
in fp32 on random input; the files hold those weights bit for bit; and the model that they load into
answers like the adapter on the probes, within a bound that is printed. Both answer in fp32 where
the model fits: products in half precision change near-ties (of SmolLM2, with nothing merged, 3 % of
the first choices), and would hide what the merge changed.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from ft.model import (
    Hardware,
    Head,
    LoadedModel,
    Precision,
    available_memory_bytes,
    load_base,
    load_config,
    load_trained,
)
from ft.model.checkpoint_format import is_held_in_few_bits, quantization_of, require_mergeable
from ft.model.precision import DTYPES, NumberFormat
from ft.model.skeleton import count_parameters
from ft.runtime.durable import staged_folder, write_json
from ft.runtime.errors import FtError, Problem, UserError
from ft.ship.merge_layers import MergedLayers, merge_layers
from ft.ship.merge_report import (
    MAX_MEAN_KL,
    MAX_MEAN_KL_OTHER_BASE,
    MergeReport,
    compare_answers,
)
from ft.spec.methods import METHODS
from ft.spec.runspec import AdapterSpec, ModelSpec

MERGE_FILE = "merge.json"
"""Marks a folder as made by a merge, and holds its report."""

Onto = Literal["dequantized", "plain"]
"""Which form of a quantized base the adapter is merged onto."""

OnProgress = Callable[[str, int, int | None], None]
"""Told the phase, what is done of it, and of how much (None: unknown)."""


_FP32 = Precision("fp32", "no", "fp32")
_BYTES_IN_FP32 = 6
"""A parameter in fp32, what its format before took beside it, and room for activations."""


@dataclass(frozen=True)
class _Source:
    """A finished run, and how it was trained."""

    run_folder: Path
    model: ModelSpec
    adapter: AdapterSpec
    precision: Precision
    hardware: Hardware
    head: Head | None

    @property
    def quantization(self) -> Mapping[str, Any]:
        """What the base's checkpoint says of few bits that it holds itself."""
        found = quantization_of(load_config(self.model))
        return found if is_held_in_few_bits(found) else {}

    @property
    def has_original(self) -> bool:
        """Whether the base was quantized as it was loaded: its files hold the plain weights."""
        return self.is_quantized and not self.quantization

    @property
    def is_quantized(self) -> bool:
        """Whether the base was held in 4 or 8 bits."""
        asked = self.model.load_in_4bit or self.model.load_in_8bit
        return asked or self.adapter.adapter == "qlora" or bool(self.quantization)


@dataclass(frozen=True)
class _Target:
    """What the merge makes."""

    onto: Onto
    dtype: NumberFormat
    allows_untrained: bool


def merge_adapter(  # noqa: PLR0913  # the one door: a run's five parts, and what to make of them
    run_folder: Path,
    model: ModelSpec,
    adapter: AdapterSpec,
    precision: Precision,
    hardware: Hardware,
    *,
    out: Path,
    probe_input_ids: list[list[int]],
    onto: Onto = "dequantized",
    dtype: NumberFormat = "bf16",
    allow_untrained: bool = False,
    extra_files: tuple[Path, ...] = (),
    on_progress: OnProgress = lambda phase, done, total: None,
    head: Head | None = None,
) -> MergeReport:
    """Merges a run's adapter into a full model in ``out``; an earlier merge there is replaced.

    Args:
        run_folder: Holds the adapter and the tokenizer.
        model: The base, as the run had it.
        adapter: As the run had it.
        precision: As the run had it.
        hardware: Where the models are computed.
        out: The model's folder; whole when it appears.
        probe_input_ids: Token ids of a few texts on which both models answer. Their logits are held
            in host memory: 4 bytes x tokens x vocabulary, four times, or five if quantized.
        onto: Which form of a quantized base to merge onto.
        dtype: Format of the merged weights.
        allow_untrained: Merge although the adapters of some layers change nothing.
        extra_files: Copied beside the model: what else belongs to it.
        on_progress: Told how far it is.
        head: As the run had it; its logits are compared as what they say of each label.

    Raises:
        UserError: there is no adapter to merge, it was never trained, or ``out`` holds something
            that no merge made.
        FtError: the merged model is not the adapter's; nothing is put in place.
    """
    source = _in_fp32_if_it_fits(_Source(run_folder, model, adapter, precision, hardware, head))
    target = _Target(onto if source.is_quantized else "plain", dtype, allow_untrained)
    probes = [ids for ids in probe_input_ids if ids]
    _refuse_before_loading(source, out, probes)
    on_progress("asking the adapter", 0, None)
    adapter_logits, base_logits = _trained_answers(source, probes)
    original_logits = _original_answers(source, probes, on_progress)
    merged, layers = _merge(source, target, on_progress)
    with staged_folder(out) as staging:
        on_progress("writing", 0, None)
        merged.model.save_pretrained(staging)
        merged.tokenizer.tokenizer.save_pretrained(staging)
        on_progress("asking the merged model", 0, None)
        files = _read_back(staging, merged, source, target)
        served_logits = _answers(files, probes, source.head)
        compared = _compared_form(files, source)
        merged_logits = served_logits
        if compared is not files:
            merged_logits = _answers(compared, probes, source.head)
        figures = compare_answers(adapter_logits, merged_logits)
        report = MergeReport(
            **dataclasses.asdict(figures),
            out=out,
            onto=target.onto,
            dtype=dtype,
            num_layers=len(layers.errors),
            max_layer_error=max(layers.errors),
            mean_kl_of_base=compare_answers(adapter_logits, base_logits).mean_kl,
            max_mean_kl=_bound(source, target),
            mean_kl_on_original=_mean_kl(original_logits, merged_logits),
            is_compared_in_fp32=source.precision.compute == compared.precision.compute == "fp32",
            top1_as_served=compare_answers(adapter_logits, served_logits).top1_agreement,
        )
        if not report.is_proven:
            _refuse_other_answers(report)
        for file in extra_files:
            shutil.copyfile(file, staging / file.name)
        write_json(staging / MERGE_FILE, {**dataclasses.asdict(report), "out": out.name})
    return report


def _in_fp32_if_it_fits(source: _Source) -> _Source:
    """The source with all that is asked of it computed in fp32, if there is room for that.

    A base with a format of its own, and one in 8 bits, whose products are int8, stay as they are.
    """
    if source.precision.compute == "fp32" or source.quantization or source.model.load_in_8bit:
        return source
    num_parameters = count_parameters(source.model)
    if num_parameters is None or not _fits_in_fp32(source, num_parameters):
        return source
    return dataclasses.replace(source, precision=_FP32)


def _fits_in_fp32(source: _Source, num_parameters: int) -> bool:
    return _BYTES_IN_FP32 * num_parameters < available_memory_bytes(source.hardware)


def _refuse_before_loading(source: _Source, out: Path, probes: list[list[int]]) -> None:
    if not probes:
        raise ValueError("a merge is proven on at least one probe")
    run = source.run_folder
    if (run / "config.json").is_file() and not (run / "adapter_config.json").is_file():
        raise UserError(
            Problem(
                "nothing to merge: the run trained the whole model, and its folder is that model",
                str(run),
            )
        )
    name = source.adapter.adapter
    if name is not None and not METHODS[name].is_merged:
        raise UserError(
            Problem(
                f"adapter: {name} changes no weight of the base: what it learned stands beside the "
                "weights, so it cannot be merged",
                str(run),
                fix="use the base and the adapter together, as `ft infer` and peft do",
            )
        )
    require_mergeable(source.quantization, source.model)
    is_foreign = out.exists() and not (out / MERGE_FILE).is_file()
    if is_foreign and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(
            Problem(
                f"holds something that no merge made (it has no {MERGE_FILE})",
                str(out),
                fix="move it away, or name another folder",
            )
        )


def _trained_answers(source: _Source, probes: list[list[int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Logits of the model as trained, with its adapter and without."""
    loaded = _load(source, "trained")
    num_rows = loaded.model.get_input_embeddings().weight.shape[0]
    if max(max(ids) for ids in probes) >= num_rows:
        what = f"run.json is damaged: a probe has a token beyond the vocabulary of {num_rows:,}"
        raise UserError(Problem(what, str(source.run_folder), fix="take run.json from a copy"))
    with_adapter = _answers(loaded, probes, source.head)
    with loaded.without_adapter():
        base = _answers(loaded, probes, source.head)
    del loaded
    _free_memory()
    return with_adapter, base


def _original_answers(
    source: _Source, probes: list[list[int]], on_progress: OnProgress
) -> list[Tensor] | None:
    """Logits of the adapter on the weights that were quantized, which it has never seen."""
    if not source.has_original:
        return None
    on_progress("asking the adapter on the original base", 0, None)
    loaded = _load(source, "plain")
    answers = _answers(loaded, probes, source.head)
    del loaded
    _free_memory()
    return answers


def _mean_kl(logits: list[Tensor] | None, others: list[Tensor]) -> float | None:
    return None if logits is None else compare_answers(logits, others).mean_kl


def _load(source: _Source, form: Literal["trained", "dequantized", "plain"]) -> LoadedModel:
    return load_trained(
        source.run_folder,
        source.model,
        source.adapter,
        source.precision,
        hardware=source.hardware,
        form=form,
        head=source.head,
    )


def _answers(loaded: LoadedModel, probes: list[list[int]], head: Head | None) -> list[Tensor]:
    with loaded.inference() as model:
        answers = [
            model(input_ids=torch.tensor([ids], device=loaded.device)).logits[0].float().cpu()
            for ids in probes
        ]
    return answers if head is None else [head.as_distributions(answer) for answer in answers]


def _merge(
    source: _Source, target: _Target, on_progress: OnProgress
) -> tuple[LoadedModel, MergedLayers]:
    """The merged model in host memory, and how its layers fared."""
    on_progress(f"loading the {target.onto} base", 0, None)
    loaded = _load(source, target.onto)
    dtype = DTYPES[target.dtype]
    result = merge_layers(
        loaded.model, dtype, lambda done, total: on_progress("merging", done, total)
    )
    has_change = len(result.untrained) < len(result.errors)
    if result.untrained and not (target.allows_untrained and has_change):
        _refuse_untrained(source, result)
    model = loaded.model.base_model.unload()
    _settle_tying(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to("cpu", dtype)
    loaded.model = model
    _free_memory()
    return loaded, result


def _refuse_untrained(source: _Source, layers: MergedLayers) -> NoReturn:
    untrained, num_layers = layers.untrained, len(layers.errors)
    what = "the adapter was never trained: it changes no weight"
    fix = "train it first"
    if len(untrained) < num_layers:
        what = f"{len(untrained)} of {num_layers} layers were never trained: {untrained[0]}, ..."
        fix = "if that is meant, leave them out of lora_target_modules"
    raise UserError(Problem(what, str(source.run_folder), fix=fix))


def _settle_tying(model: Any) -> None:
    """Marks the embeddings as untied where the merge gave the output head weights of its own."""
    head = model.get_output_embeddings()
    if model.config.tie_word_embeddings and head is not None:
        is_tied = head.weight is model.get_input_embeddings().weight
        model.config.tie_word_embeddings = is_tied


def _read_back(folder: Path, merged: LoadedModel, source: _Source, target: _Target) -> LoadedModel:
    """The model that the files load into, once its tensors were compared."""
    spec = ModelSpec.model_validate({"base_model": str(folder.absolute())})
    precision = Precision(target.dtype, "no", target.dtype)
    base = load_base(spec, precision, hardware=source.hardware, head=source.head)
    written = dict(merged.model.named_parameters(remove_duplicate=False))
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        if name not in written or not torch.equal(parameter.cpu(), written[name]):
            raise FtError(f"{name} was read back from the merged files with other values")
    return dataclasses.replace(merged, model=base.model, precision=precision)


def _compared_form(files: LoadedModel, source: _Source) -> LoadedModel:
    """The same weights computed in fp32, if the adapter was and there is room; else as they are."""
    if files.precision.compute == "fp32" or source.precision.compute != "fp32":
        return files
    if not _fits_in_fp32(source, sum(each.numel() for each in files.model.parameters())):
        return files
    for parameter in files.model.parameters():
        parameter.data = parameter.data.float()
    return dataclasses.replace(files, precision=_FP32)


def _bound(source: _Source, target: _Target) -> float:
    """Largest mean KL: wider where adapter and merge do not compute the same function."""
    is_other_base = source.is_quantized and target.onto == "plain"
    if is_other_base or source.model.load_in_8bit:
        return MAX_MEAN_KL_OTHER_BASE
    return MAX_MEAN_KL


def _refuse_other_answers(report: MergeReport) -> NoReturn:
    raise FtError(
        Problem(
            f"the merged model answers differently from the adapter: mean KL {report.mean_kl:.3g} "
            f"nats a token, at most {report.max_mean_kl:g} was expected; nothing was put in place",
            str(report.out),
            fix="merge onto the dequantized base" if report.onto == "plain" else "",
        )
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

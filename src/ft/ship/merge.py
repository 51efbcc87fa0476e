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
answers like the adapter on the probes, within a bound that is printed.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ft.model import Hardware, LoadedModel, Precision, load_base, load_trained
from ft.model.precision import DTYPES, NumberFormat
from ft.runtime.durable import staged_folder, write_json
from ft.runtime.errors import FtError, Problem, UserError
from ft.spec.runspec import AdapterSpec, ModelSpec

# isort: split
from peft.tuners.tuners_utils import BaseTunerLayer  # after ft.model, the way in for peft

MERGE_FILE = "merge.json"
"""Marks a folder as made by a merge, and holds its report."""

MAX_LAYER_ERROR = 1e-4
"""Largest difference of a merged layer's output, relative to its largest output, in fp32."""

MAX_MEAN_KL = 0.01
"""Nats a token, merged against adapter, when both compute the same function in other roundings."""

MAX_MEAN_KL_OTHER_BASE = 0.25
"""The same where the functions differ: 8-bit activations, or a base other than the trained one."""

Onto = Literal["dequantized", "plain"]
"""Which form of a quantized base the adapter is merged onto."""

OnProgress = Callable[[str, int, int | None], None]
"""Told the phase, what is done of it, and of how much (None: unknown)."""


@dataclass(frozen=True)
class _Source:
    """A finished run, and how it was trained."""

    run_folder: Path
    model: ModelSpec
    adapter: AdapterSpec
    precision: Precision
    hardware: Hardware

    @property
    def is_quantized(self) -> bool:
        """Whether the base was held in 4 or 8 bits."""
        return self.model.load_in_4bit or self.model.load_in_8bit or self.adapter.adapter == "qlora"


@dataclass(frozen=True)
class _Target:
    """What the merge makes."""

    onto: Onto
    dtype: NumberFormat
    allows_untrained: bool


@dataclass(frozen=True)
class MergeReport:
    """What was merged and how far it is from the adapter."""

    out: Path
    onto: str
    dtype: str
    num_layers: int
    max_layer_error: float
    """Of all layers, relative, in fp32."""
    num_probe_tokens: int
    max_logit_difference: float
    mean_kl: float
    """KL(adapter || merged) over the probes' positions, in nats a token."""
    mean_kl_of_base: float
    """KL(adapter || base without adapter): what a merge that did nothing would show."""
    top1_agreement: float
    max_mean_kl: float
    """The bound that was applied."""

    def render(self) -> list[str]:
        """The report as lines for the terminal."""
        return [
            f"{self.out}: {self.num_layers} layers merged onto the {self.onto} base, "
            f"in {self.dtype}",
            f"  layers in fp32: adapter and merged differ by at most {self.max_layer_error:.1e}",
            "  files: every tensor read back as it was written",
            f"  answers on {self.num_probe_tokens} tokens, adapter against merged files:",
            f"    mean KL {self.mean_kl:.2e} nats (bound {self.max_mean_kl:g}; without the adapter "
            f"{self.mean_kl_of_base:.2e})",
            f"    same first choice {self.top1_agreement:.1%}, largest logit difference "
            f"{self.max_logit_difference:.3g}",
        ]


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
    on_progress: OnProgress = lambda phase, done, total: None,
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
            in host memory: 4 bytes x tokens x vocabulary, three times.
        onto: Which form of a quantized base to merge onto.
        dtype: Format of the merged weights.
        allow_untrained: Merge although the adapters of some layers change nothing.
        on_progress: Told how far it is.

    Raises:
        UserError: there is no adapter to merge, it was never trained, or ``out`` holds something
            that no merge made.
        FtError: the merged model is not the adapter's; nothing is put in place.
    """
    source = _Source(run_folder, model, adapter, precision, hardware)
    target = _Target(onto if source.is_quantized else "plain", dtype, allow_untrained)
    probes = [ids for ids in probe_input_ids if ids]
    _refuse_before_loading(source, out, probes)
    on_progress("asking the adapter", 0, None)
    adapter_logits, base_logits = _trained_answers(source, probes)
    merged, layer_errors = _merge(source, target, on_progress)
    with staged_folder(out) as staging:
        on_progress("writing", 0, None)
        merged.model.save_pretrained(staging)
        merged.tokenizer.tokenizer.save_pretrained(staging)
        on_progress("asking the merged model", 0, None)
        merged_logits = _answers_of_files(staging, merged, source, target, probes)
        figures = _compare(adapter_logits, base_logits, merged_logits)
        report = MergeReport(
            out=out,
            onto=target.onto,
            dtype=dtype,
            num_layers=len(layer_errors),
            max_layer_error=max(layer_errors),
            max_mean_kl=_bound(source, target),
            **figures,
        )
        _require_same_answers(report)
        write_json(staging / MERGE_FILE, {**dataclasses.asdict(report), "out": out.name})
    return report


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
    with_adapter = _answers(loaded, probes)
    with loaded.without_adapter():
        base = _answers(loaded, probes)
    del loaded
    _free_memory()
    return with_adapter, base


def _load(source: _Source, form: Literal["trained", "dequantized", "plain"]) -> LoadedModel:
    return load_trained(
        source.run_folder,
        source.model,
        source.adapter,
        source.precision,
        hardware=source.hardware,
        form=form,
    )


def _answers(loaded: LoadedModel, probes: list[list[int]]) -> list[Tensor]:
    with loaded.inference() as model:
        return [
            model(input_ids=torch.tensor([ids], device=loaded.device)).logits[0].float().cpu()
            for ids in probes
        ]


def _merge(
    source: _Source, target: _Target, on_progress: OnProgress
) -> tuple[LoadedModel, list[float]]:
    """The merged model in host memory, and each layer's error."""
    on_progress(f"loading the {target.onto} base", 0, None)
    loaded = _load(source, target.onto)
    dtype = DTYPES[target.dtype]
    layers = [
        (name, layer)
        for name, layer in loaded.model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    errors: list[float] = []
    untrained: list[str] = []
    with torch.no_grad(), _exact_products():
        for num_done, (name, layer) in enumerate(layers):
            on_progress("merging", num_done, len(layers))
            error, is_changed = _merge_layer(layer, dtype)
            if not is_changed:
                untrained.append(name.removeprefix("base_model.model."))
            if not error <= MAX_LAYER_ERROR:  # a NaN is no pass
                raise FtError(
                    f"the merged {name} does not compute what the adapter does: relative error "
                    f"{error:.1e} in fp32"
                )
            errors.append(error)
    if untrained and not (target.allows_untrained and len(untrained) < len(layers)):
        _refuse_untrained(source, untrained, len(layers))
    model = loaded.model.base_model.unload()
    _settle_tying(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to("cpu", dtype)
    loaded.model = model
    _free_memory()
    return loaded, errors


def _merge_layer(layer: Any, dtype: torch.dtype) -> tuple[float, bool]:
    """Merges one adapted layer in fp32 and leaves its weight in ``dtype``.

    The adapted layer's own output, unmerged, is what the merged weight is held against.

    Returns:
        The relative error, and whether the adapter changed the weight at all.
    """
    base = layer.get_base_layer()
    original = base.weight.detach().to(torch.float32)
    layer.to(torch.float32)
    base.weight = nn.Parameter(original.clone(), requires_grad=False)  # its own, if it was tied
    x = _random_input(base)
    expected = layer(x)
    layer.merge(safe_merge=True)
    actual = base(x)
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    is_changed = not torch.equal(base.weight, original)
    base.weight = nn.Parameter(base.weight.detach().to(dtype), requires_grad=False)
    return error.item(), is_changed


def _random_input(base: nn.Module) -> Tensor:
    weight = base.weight
    assert isinstance(weight, Tensor)
    generator = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        return torch.randint(len(weight), (64,), generator=generator).to(weight.device)
    width = base.in_features if isinstance(base, nn.Linear) else weight.shape[0]  # else: Conv1D
    return torch.randn(8, width, generator=generator).to(weight.device)


def _refuse_untrained(source: _Source, untrained: list[str], num_layers: int) -> None:
    everything = len(untrained) == num_layers
    what = (
        "the adapter was never trained: it changes no weight"
        if everything
        else f"{len(untrained)} of {num_layers} layers were never trained: {untrained[0]}, ..."
    )
    fix = "train it first" if everything else "allow untrained layers if that is meant"
    raise UserError(Problem(what, str(source.run_folder), fix=fix))


def _settle_tying(model: Any) -> None:
    """Marks the embeddings as untied where the merge gave the output head weights of its own."""
    head = model.get_output_embeddings()
    if model.config.tie_word_embeddings and head is not None:
        is_tied = head.weight is model.get_input_embeddings().weight
        model.config.tie_word_embeddings = is_tied


def _answers_of_files(
    folder: Path,
    merged: LoadedModel,
    source: _Source,
    target: _Target,
    probes: list[list[int]],
) -> list[Tensor]:
    """Logits of the model that the files load into, after its tensors were compared."""
    spec = ModelSpec.model_validate({"base_model": str(folder.absolute())})
    precision = Precision(target.dtype, "no", target.dtype)
    base = load_base(spec, precision, hardware=source.hardware)
    written = dict(merged.model.named_parameters(remove_duplicate=False))
    for name, parameter in base.model.named_parameters(remove_duplicate=False):
        if name not in written or not torch.equal(parameter.cpu(), written[name]):
            raise FtError(f"{name} was read back from the merged files with other values")
    return _answers(dataclasses.replace(merged, model=base.model, precision=precision), probes)


def _compare(adapter: list[Tensor], base: list[Tensor], merged: list[Tensor]) -> dict[str, Any]:
    """The figures of a report, over all positions of all probes."""
    adapter_TV, base_TV, merged_TV = torch.cat(adapter), torch.cat(base), torch.cat(merged)
    same = adapter_TV.argmax(-1) == merged_TV.argmax(-1)
    return {
        "num_probe_tokens": len(adapter_TV),
        "max_logit_difference": (adapter_TV - merged_TV).abs().max().item(),
        "mean_kl": _mean_kl(adapter_TV, merged_TV),
        "mean_kl_of_base": _mean_kl(adapter_TV, base_TV),
        "top1_agreement": same.float().mean().item(),
    }


def _bound(source: _Source, target: _Target) -> float:
    """Largest mean KL: wider where adapter and merge do not compute the same function."""
    is_other_base = source.is_quantized and target.onto == "plain"
    if is_other_base or source.model.load_in_8bit:
        return MAX_MEAN_KL_OTHER_BASE
    return MAX_MEAN_KL


def _mean_kl(logits_TV: Tensor, other_TV: Tensor) -> float:
    """KL(softmax(logits) || softmax(other)), the mean over tokens, in nats."""
    log_p, log_q = logits_TV.double().log_softmax(-1), other_TV.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().clamp_min(0.0).item()


def _require_same_answers(report: MergeReport) -> None:
    if report.mean_kl <= report.max_mean_kl:  # a NaN is no pass
        return
    raise FtError(
        Problem(
            f"the merged model answers differently from the adapter: mean KL {report.mean_kl:.3g} "
            f"nats a token, at most {report.max_mean_kl:g} was expected; nothing was put in place",
            str(report.out),
            fix="merge onto the dequantized base, in fp32" if report.onto == "plain" else "",
        )
    )


@contextmanager
def _exact_products() -> Iterator[None]:
    """Matrix products of fp32 tensors in full fp32, for the length of the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

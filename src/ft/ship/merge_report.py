"""How far a merged model is from the adapter: the figures, their bounds, their rendering."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

MAX_MEAN_KL = 0.01
"""Nats a token, merged against adapter, when both compute the same function in other roundings."""

MAX_MEAN_KL_OTHER_BASE = 0.25
"""The same where the functions differ: 8-bit activations, or a base other than the trained one."""


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
    mean_kl_on_original: float | None
    """KL(adapter on the original weights || merged); None where the base was not quantized here."""
    is_compared_in_fp32: bool
    """Adapter and merged weights answered in fp32; else each in its own format."""
    top1_as_served: float
    """Agreement of first choices with the merged model computed in ``dtype``."""

    @property
    def is_proven(self) -> bool:
        """Whether the answers stay within the bound; a NaN does not."""
        return self.mean_kl <= self.max_mean_kl

    def render(self) -> list[str]:
        """The report as lines for the terminal."""
        return [
            f"{self.out}: {self.num_layers} layers merged onto the {self.onto} base, "
            f"in {self.dtype}",
            f"  layers in fp32: adapter and merged differ by at most {self.max_layer_error:.1e}",
            "  files: every tensor read back as it was written",
            f"  answers on {self.num_probe_tokens} tokens, adapter against merged files"
            f"{', both computed in fp32' if self.is_compared_in_fp32 else ''}:",
            f"    mean KL {self.mean_kl:.2e} nats (bound {self.max_mean_kl:g}; without the adapter "
            f"{self.mean_kl_of_base:.2e})",
            *self._original_lines(),
            f"    same first choice {self.top1_agreement:.1%}, largest logit difference "
            f"{self.max_logit_difference:.3g}",
            *self._served_lines(),
        ]

    def _served_lines(self) -> list[str]:
        if not self.is_compared_in_fp32 or self.dtype == "fp32":
            return []
        return [
            f"    same first choice {self.top1_as_served:.1%} once products are in {self.dtype}, "
            "which decide near-ties anew"
        ]

    def _original_lines(self) -> list[str]:
        if self.mean_kl_on_original is None:
            return []
        return [
            f"    mean KL {self.mean_kl_on_original:.2e} nats to the adapter on the original base, "
            "which it was not trained on"
        ]


@dataclass(frozen=True)
class AnswerFigures:
    """Two models' logits on the same probes, compared."""

    num_probe_tokens: int
    max_logit_difference: float
    mean_kl: float
    top1_agreement: float


def compare_answers(logits: list[Tensor], others: list[Tensor]) -> AnswerFigures:
    """Compares logits ``[T, V]`` of a few probes, probe by probe, to hold little at a time.

    Args:
        logits: Of the model that is held to be right.
        others: Of the other one.
    """
    num_tokens, num_same, kl, difference = 0, 0, 0.0, 0.0
    for logits_TV, other_TV in zip(logits, others, strict=True):
        log_p, log_q = logits_TV.log_softmax(-1), other_TV.log_softmax(-1)
        kl += (log_p.exp() * (log_p - log_q)).double().sum().item()
        difference = max(difference, (logits_TV - other_TV).abs().max().item())
        num_same += int((logits_TV.argmax(-1) == other_TV.argmax(-1)).sum())
        num_tokens += len(logits_TV)
    return AnswerFigures(num_tokens, difference, max(kl / num_tokens, 0.0), num_same / num_tokens)

"""The output head that gives the loss instead of logits, where a model's logits are nothing more.

A model whose forward does something to the logits afterwards (caps or scales them) needs them, so
each model is asked: whether its logits are the head's output, bit for bit, and whether the loss
that it lets through in their place is the loss of its logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ft.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_eager,
    loss_and_gradient,
)

_NUM_TOKENS = 4
_TOLERANCE = 1e-2
"""Of the loss, relative: half precision rounds both in their own way."""


class LossHead(nn.Linear):
    """A head that gives the loss, summed, while there are targets; the logits otherwise."""

    targets: Tensor | None = None
    softmax: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits ``[*, V]``, or with targets an fp32 scalar."""
        if self.targets is None:
            return super().forward(hidden)
        targets = self.targets.flatten()
        return linear_cross_entropy(
            hidden.flatten(0, -2), self.weight, targets, softmax=self.softmax
        )

    def compile_softmax(self) -> None:
        """Compiles what lies between the head's products; it goes on as it is if that fails."""
        compiled = torch.compile(loss_and_gradient)

        def softmax(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            for rows in (logits, targets):
                torch._dynamo.maybe_mark_dynamic(rows, 0)
            try:
                return compiled(logits, targets)
            except torch.OutOfMemoryError:
                raise
            except Exception:  # noqa: BLE001 - whatever a compiler comes to, training goes on
                self.softmax = loss_and_gradient
                return loss_and_gradient(logits, targets)

        self.softmax = softmax


def fuse_head(model: Any) -> LossHead | None:
    """Makes ``model(..., targets=...)`` give the loss as its ``logits``, if this model can.

    Args:
        model: A transformers model, or a PeftModel of one, on its device.

    Returns:
        The head; None if the model stays as it was.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head: Any = _active(base.get_output_embeddings())
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        return None
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _fused_if_alike(model, head)
    finally:
        model.train(was_training)


def _fused_if_alike(model: Any, head: Any) -> LossHead | None:
    seen: list[tuple[Tensor, Tensor]] = []
    watch = head.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    ids = torch.arange(_NUM_TOKENS, device=head.weight.device)[None]
    logits = model(input_ids=ids, use_cache=False).logits
    watch.remove()
    if len(seen) != 1 or not torch.equal(seen[0][1].float(), logits.float()):
        return None
    hidden = seen[0][0].flatten(0, -2)
    targets = torch.arange(len(hidden), device=ids.device)
    expected = linear_cross_entropy_eager(hidden, head.weight, targets)
    head.__class__ = LossHead
    hooks = (
        model.register_forward_pre_hook(_take_targets, with_kwargs=True),
        model.register_forward_hook(_forget_targets, always_call=True),
    )
    model.__dict__["_loss_head"] = head
    try:
        loss = model(input_ids=ids, targets=targets, use_cache=False).logits
        is_alike = torch.allclose(loss, expected, rtol=_TOLERANCE)
    except (RuntimeError, IndexError, ValueError, TypeError):  # it looks into its logits
        is_alike = False
    if is_alike or not bool(expected.isfinite()):
        return head  # type: ignore[no-any-return]
    for hook in hooks:
        hook.remove()
    head.__class__ = nn.Linear
    return None


def _take_targets(model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    model.__dict__["_loss_head"].targets = kwargs.pop("targets", None)
    return args, kwargs


def _forget_targets(model: Any, args: Any, output: Any) -> None:
    model.__dict__["_loss_head"].targets = None


def _active(head: Any) -> Any:
    """The head itself, where peft holds a trained copy of it beside the original."""
    copies = getattr(head, "modules_to_save", None)
    return copies[head.active_adapters[0]] if copies is not None and len(copies) == 1 else head

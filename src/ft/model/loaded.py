"""``LoadedModel``: a model, its tokenizer and all that was decided about them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ft.model.patches  # noqa: F401  # first: peft imports bitsandbytes
from ft.model.attention import Attention
from ft.model.base_check import ADAPTER_WEIGHTS
from ft.model.execution import Execution
from ft.model.grouped import GroupedLinear
from ft.model.hardware import Hardware
from ft.model.head import LossHead
from ft.model.host_copies import HostCopies
from ft.model.hub import explained
from ft.model.methods import Attached, attach
from ft.model.methods.attached import Untouched
from ft.model.precision import Precision
from ft.model.tokenizer import LoadedTokenizer
from ft.runtime.errors import Problem, UserError

# isort: split
from peft import PeftModel, set_peft_model_state_dict

EXACT_WEIGHTS = "adapter_exact.safetensors"
"""Beside an adapter in a checkpoint: what training needs and peft's file does not hold."""


@dataclass
class LoadedModel:
    """What is trained, asked or merged."""

    model: Any
    """A PeftModel (base + adapter) or transformers' model (full fine-tuning)."""
    tokenizer: LoadedTokenizer
    precision: Precision
    attention: Attention
    hardware: Hardware
    base_revision: str | None = None
    """The hub's commit of the base; None for a local folder."""
    notes: list[str] = field(default_factory=list)
    execution: Execution | None = None
    """How its decoder layers run; None for use, and for models that are built in another way."""
    loss_head: LossHead | None = None
    """The head that gives the loss for ``targets=``; None where it gives logits only."""
    attached: Attached = field(init=False)
    """What the adapter does beside forward and backward passes."""

    def __post_init__(self) -> None:
        self.attached = attach(self.model) if self.has_adapter else Untouched()

    @property
    def has_adapter(self) -> bool:
        """Whether the base is frozen under an adapter."""
        return isinstance(self.model, PeftModel)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        device = next(self.model.parameters()).device
        assert isinstance(device, torch.device)
        return device

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones once, those in few bits as what they stand for."""
        packed = [layer for layer in self.model.modules() if isinstance(layer, GroupedLinear)]
        return sum(_num_weights(parameter) for parameter in self.model.parameters()) + sum(
            layer.num_weights for layer in packed
        )

    @property
    def num_trainable(self) -> int:
        """Parameters that the optimizer steps."""
        return sum(parameter.numel() for _, parameter in self.trainable_parameters())

    @property
    def saved_bytes(self) -> int:
        """What ``snapshot`` writes, the files' headers aside."""
        if self.has_adapter:
            published, _ = self.attached.published()
            tensors = [*published.values(), *self.attached.exact().values()]
        else:
            tensors = list(self.model.parameters())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and tensors that the optimizer steps; a tied one once."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    def compile(self, on_failure: Callable[[str], None]) -> None:
        """Compiles, at their first calls, the decoder layers and the softmax of the loss.

        What is compiled is kept for later runs, in the user's cache, not in a folder for
        temporary files, where inductor has it.

        Args:
            on_failure: Told why, if the layers cannot be compiled; they then run as they are.
        """
        if self.execution is None:
            on_failure("the model is not built of layers that transformers could recompute")
            return
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(caches) / "ft" / "compiled"))
        self.execution.compile(on_failure=on_failure)
        if self.loss_head is not None:
            self.loss_head.compile_softmax()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that forward passes run in."""
        if self.precision.autocast == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision.compute_dtype)

    @contextmanager
    def inference(self) -> Iterator[Any]:
        """The model in evaluation mode, with an attention that takes padded batches.

        Everything is as before when the block ends. Yields the model.
        """
        base = self.model.get_base_model() if self.has_adapter else self.model
        was_training = self.model.training
        implementation = base.config._attn_implementation
        self.model.eval()
        if self.attention.is_varlen:
            base.set_attn_implementation("sdpa")
        try:
            with torch.no_grad(), self.autocast():
                yield self.model
        finally:
            if self.attention.is_varlen:
                base.set_attn_implementation(implementation)
            self.model.train(was_training)

    @contextmanager
    def without_adapter(self) -> Iterator[Any]:
        """The base's own answers, for the length of the block. Yields the model.

        Raises:
            UserError: the model was trained whole, so there is no base left to ask.
        """
        if not self.has_adapter:
            raise UserError("a full fine-tune holds no base beside itself: load the base instead")
        trained = {n: p.requires_grad for n, p in self.model.named_parameters()}
        with self.model.disable_adapter():
            yield self.model
        for name, parameter in self.model.named_parameters():  # peft switches all of them on
            parameter.requires_grad_(trained[name])

    def save_weights(self, folder: Path) -> None:
        """Writes what was trained: PEFT's two files, or the whole model's own files.

        Writes nothing else, no README, no tokenizer; the caller stages the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        copies = HostCopies()
        write = self._writer(copies, {})
        copies.wait()
        write(folder)

    def snapshot(self, copies: HostCopies) -> Callable[[Path], Any]:
        """What writes the weights, and all that training needs, once ``copies`` are whole.

        An adapter is copied, so it can be written later, from any thread. A whole model is not: a
        second copy may not fit into memory.
        """
        return self._writer(copies, self.attached.exact())

    def _writer(self, copies: HostCopies, exact: dict[str, Tensor]) -> Callable[[Path], Any]:
        if not self.has_adapter:
            write_model: Callable[[Path], Any] = self.model.save_pretrained
            return write_model
        published, config = self.attached.published()
        separate = {name: copies.copy(name, tensor) for name, tensor in published.items()}
        beside = {name: copies.copy(f"exact {name}", tensor) for name, tensor in exact.items()}

        def write(folder: Path) -> None:
            save_file(separate, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            config.save_pretrained(str(folder))
            if beside:
                save_file(beside, folder / EXACT_WEIGHTS, metadata={"format": "pt"})

        return write

    def load_weights(self, folder: Path) -> None:
        """Restores, bit for bit, what ``snapshot`` wrote.

        Raises:
            UserError: the folder's weights are missing, or another model's.
        """
        if self.has_adapter:
            with explained(str(folder), "adapter"):
                state = load_file(folder / ADAPTER_WEIGHTS)
                exact = _exact_of(folder)
            expected, _ = self.attached.published()
            _require_same_tensors(state, expected, folder)
            if not exact or not self.attached.exact_is_all:
                set_peft_model_state_dict(self.model, state)
            self.attached.restore(exact)
            return
        with explained(str(folder), "model"):
            saved = type(self.model).from_pretrained(
                folder, dtype=self.model.dtype, use_safetensors=True, trust_remote_code=False
            )
        state = saved.state_dict()
        _require_same_tensors(state, self.model.state_dict(), folder)
        self.model.load_state_dict(state)


def _exact_of(folder: Path) -> dict[str, Tensor]:
    file = folder / EXACT_WEIGHTS
    return load_file(file) if file.is_file() else {}


def _require_same_tensors(state: dict[str, Any], expected: dict[str, Any], folder: Path) -> None:
    odd = sorted(set(state) ^ set(expected))
    odd += sorted(k for k in set(state) & set(expected) if state[k].shape != expected[k].shape)
    if odd:
        raise UserError(
            Problem(
                f"{len(odd)} tensors do not fit this model: {odd[0]}",
                str(folder),
                fix="load it with the settings that it was saved with",
            )
        )


def _num_weights(parameter: nn.Parameter) -> int:
    quant_state = getattr(parameter, "quant_state", None)
    return math.prod(quant_state.shape) if quant_state is not None else parameter.numel()

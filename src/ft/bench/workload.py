"""What a pass of a model must compute: its matrix products and its attention, from its config.

Counted is what no implementation can leave out. Forward: every linear layer. Backward: the gradient
of its input, and of its weight where the weight is trained. The head: at trained tokens alone.
Attention: the causal half. Not counted: the adapter's own products are counted as arithmetic but
have no time of their own in a ceiling; norms, RoPE, activations, the loss, the optimizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

FORMULA = (
    "arithmetic a step = linear layers 2*in*out*tokens forward, as much for the input's gradient "
    "and for the weight's where it is trained, the head at trained tokens alone; adapter "
    "6*parameters*tokens; causal attention 7*length^2*heads*head_dim a layer and record; "
    "no recompute. MFU = arithmetic / step time / the measured rate of a large product"
)

_WRAPPING = ("base_model.model.", "modules_to_save.default.", "base_layer.")


@dataclass(frozen=True)
class Product:
    """A linear layer, as often as the model has it.

    Attributes:
        in_features: Columns of its weight.
        out_features: Rows of its weight.
        count: Layers of this shape.
        is_head: It gives logits, at trained tokens alone.
        is_trained: Its weight has a gradient.
    """

    in_features: int
    out_features: int
    count: int
    is_head: bool
    is_trained: bool

    @property
    def num_weights(self) -> int:
        """Of one such layer."""
        return self.in_features * self.out_features


@dataclass(frozen=True)
class AttentionShape:
    """The attention of every layer."""

    num_layers: int
    num_heads: int
    head_dim: int


@dataclass(frozen=True)
class Workload:
    """What every token of a model costs.

    Attributes:
        products: Its linear layers.
        attention: None where the config does not say.
        num_adapter_parameters: Trained beside the base.
        has_experts: It is a mixture, whose experts are not among ``products``.
    """

    products: tuple[Product, ...]
    attention: AttentionShape | None
    num_adapter_parameters: int
    has_experts: bool

    def arithmetic(self, passes: PassShape) -> float:
        """Operations of one pass, a multiplication and an addition being two; see ``FORMULA``."""
        total = 6.0 * self.num_adapter_parameters * passes.num_tokens
        for product in self.products:
            rows = passes.num_trained_tokens if product.is_head else passes.num_tokens
            directions = 3 if product.is_trained else 2
            total += 2.0 * directions * product.count * product.num_weights * rows
        if self.attention is not None:
            width = self.attention.num_heads * self.attention.head_dim
            squares = passes.num_records * passes.record_length**2
            total += 7.0 * self.attention.num_layers * width * squares
        return total


@dataclass(frozen=True)
class PassShape:
    """What goes through a forward pass, on average.

    Attributes:
        num_tokens: Of records.
        num_trained_tokens: Those with a logit.
        num_records: How many records.
    """

    num_tokens: float
    num_trained_tokens: float
    num_records: float

    @property
    def record_length(self) -> float:
        """Tokens of a record."""
        return self.num_tokens / self.num_records


def read_workload(config: Any, trained: Mapping[str, int]) -> Workload:
    """A model's workload.

    Args:
        config: transformers' config.
        trained: Sizes of the parameters that are trained, by the names of peft or transformers;
            one that the base does not have is the adapter's.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = model.get_output_embeddings()
    own = dict(model.named_parameters())
    sizes = {plain_name(name): size for name, size in trained.items()}
    shapes: Counter[tuple[int, int, bool, bool]] = Counter()
    trained_weights = {id(own[name]) for name in sizes if name in own}  # a tied one is one
    for module in model.modules():
        if isinstance(module, nn.Linear):
            is_trained = id(module.weight) in trained_weights
            shapes[module.in_features, module.out_features, module is head, is_trained] += 1
    products = tuple(
        Product(size_in, size_out, count, is_head, is_trained)
        for (size_in, size_out, is_head, is_trained), count in shapes.items()
    )
    has_experts = any(
        "experts" in name and weight.ndim == 3 for name, weight in model.named_parameters()
    )
    in_adapter = sum(size for name, size in sizes.items() if name not in own)
    return Workload(products, _attention(config), in_adapter, has_experts)


def plain_name(name: str) -> str:
    """The name that a parameter has in the model without an adapter around it."""
    for part in _WRAPPING:
        name = name.replace(part, "")
    return name


def _attention(config: Any) -> AttentionShape | None:
    text = config.get_text_config()
    num_heads = getattr(text, "num_attention_heads", None)
    num_layers = getattr(text, "num_hidden_layers", None)
    if not num_heads or not num_layers:
        return None
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    return AttentionShape(num_layers, num_heads, head_dim)

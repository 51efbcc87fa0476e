"""What a decoder layer keeps for its backward pass: counted by running it, not guessed.

The layer's own modules are run on tensors that have shapes and no values (``FakeTensorMode``), so a
layer of any size takes a second and no memory, on any machine:

    eager      autograd's own hooks name every tensor that is saved
    compiled   the layer is traced and cut into forward and backward by the partitioner that
               torch.compile uses (min-cut rematerialization), whose outputs are what is saved

A tensor is counted by its storage, once: views are free, parameters are there anyway, and what all
layers share (rotary tables) is no layer's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NUM_TOKENS = 509
"""Tokens of the trial: a prime, so that a size that it divides is one that grows with tokens."""


@dataclass(frozen=True)
class LayerTrace:
    """What one decoder layer needs; bytes, and bytes a token."""

    input_bytes_per_token: float
    """Its input: all that a layer keeps that is recomputed."""
    kept_bytes_per_token: float
    """For the backward pass, of a layer that is not recomputed; its input included."""
    kept_bytes: float
    """The same, whatever the number of tokens: adapters in the compute format."""
    working_bytes_per_token: float
    """Beside what is kept, at most at a time, while its backward pass runs."""
    working_bytes: float


@dataclass(frozen=True)
class LayerCall:
    """How the model calls its layers, on meta tensors."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _FirstLayerReached(Exception):  # noqa: N818 - how the trial ends, no error
    pass


def capture_call(model: nn.Module, layer: nn.Module) -> LayerCall:
    """The arguments with which the model calls a layer, for one row of ``NUM_TOKENS`` tokens.

    Args:
        model: On the meta device.
        layer: One of its decoder layers, the first.
    """
    found: list[LayerCall] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, *rest = args if args else (kwargs.pop("hidden_states"),)
        found.append(LayerCall(hidden, tuple(rest), dict(kwargs)))
        raise _FirstLayerReached

    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    row = torch.arange(NUM_TOKENS, device="meta")[None]
    try:
        model(input_ids=row, use_cache=False)  # one record, so its positions are the default
    except _FirstLayerReached:
        pass
    finally:
        handle.remove()
    return found[0]


def trace_layer(
    layer: nn.Module, call: LayerCall, *, autocast: torch.dtype | None, is_compiled: bool
) -> LayerTrace:
    """Runs the layer without values and counts.

    Args:
        layer: On the meta device, in training mode.
        call: From ``capture_call``.
        autocast: The format of products under autocast; None = no autocast.
        is_compiled: Whether it will run compiled.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        parameters = {name: _fake(p) for name, p in layer.named_parameters()}
        buffers = {name: _fake(b) for name, b in layer.named_buffers()}
        hidden = _fake(call.hidden).requires_grad_()
        flat, spec = pytree.tree_flatten((call.args, call.kwargs))
        others = [_fake(leaf) if isinstance(leaf, Tensor) else leaf for leaf in flat]

        def run(parameters: dict[str, Tensor], hidden: Tensor, tensors: list[Tensor]) -> Any:
            given = iter(tensors)
            leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in others]
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            state = {**parameters, **buffers}
            output = torch.func.functional_call(layer, state, (hidden, *args), kwargs)
            return output[0] if isinstance(output, tuple) else output

        tensors = [leaf for leaf in others if isinstance(leaf, Tensor)]
        formats: AbstractContextManager[Any] = (
            nullcontext() if autocast is None else torch.autocast("cpu", dtype=autocast)
        )
        trial = _trial_compiled if is_compiled else _trial_eager
        return trial(run, parameters, hidden, tensors, formats)


def _fake(tensor: Tensor) -> Tensor:
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return made.requires_grad_() if tensor.requires_grad else made


Run = Callable[[dict[str, Tensor], Tensor, list[Tensor]], Tensor]


# -- eager --------------------------------------------------------------------------------------


def _trial_eager(
    run: Run,
    parameters: dict[str, Tensor],
    hidden: Tensor,
    tensors: list[Tensor],
    formats: AbstractContextManager[Any],
) -> LayerTrace:
    kept: dict[int, int] = {}
    given = {_key(t) for t in (*parameters.values(), *tensors)}

    def note(tensor: Tensor) -> Tensor:
        if _key(tensor) not in given:
            kept[_key(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    live = _LiveBytes()
    with live:
        with formats, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = run(parameters, hidden, tensors)
        at_start = live.peak = live.now
        torch.autograd.backward(output, torch.empty_like(output))
    per_token, fixed = _by_tokens(kept.values())
    size, working = _bytes(hidden) / NUM_TOKENS, (live.peak - at_start) / NUM_TOKENS
    return LayerTrace(size, per_token, fixed, working, 0.0)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that were made under it, are still there, and grow with tokens.

    So the gradients of parameters are left out, which are counted elsewhere.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = {_key(t) for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in before | self._seen:
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        size = storage.nbytes()
        if size % NUM_TOKENS:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


# -- compiled -----------------------------------------------------------------------------------


def _trial_compiled(
    run: Run,
    parameters: dict[str, Tensor],
    hidden: Tensor,
    tensors: list[Tensor],
    formats: AbstractContextManager[Any],
) -> LayerTrace:
    from torch._functorch.aot_autograd import aot_function
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table

    graphs: list[tuple[torch.fx.GraphModule, int]] = []

    def cut(joint: torch.fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        forward, backward = min_cut_rematerialization_partition(joint, *args, **kwargs)
        graphs.append((forward, int(kwargs["num_fwd_outputs"])))
        graphs.append((backward, 0))
        return forward, backward

    traced = aot_function(
        run,
        fw_compiler=lambda graph, inputs: graph,
        bw_compiler=lambda graph, inputs: graph,
        partition_fn=cut,
        decompositions=select_decomp_table(),
    )
    with formats:
        traced(parameters, hidden, tensors)
    (forward, num_outputs), (backward, _) = graphs
    is_hidden = _placeholder_at(forward, len(parameters))
    kept = {}
    for node in _returned(forward)[num_outputs:]:
        base = _base_of(node)
        if base.op != "placeholder" or base is is_hidden:
            kept[base] = _bytes_of(base)
    per_token, fixed = _by_tokens(kept.values())
    working, working_fixed = _working_of(backward)
    size = _bytes(hidden) / NUM_TOKENS
    return LayerTrace(size, per_token, fixed, working / NUM_TOKENS, working_fixed)


def _placeholder_at(graph: torch.fx.GraphModule, position: int) -> torch.fx.Node:
    placeholders: list[torch.fx.Node] = [n for n in graph.graph.nodes if n.op == "placeholder"]
    return placeholders[position]


def _returned(graph: torch.fx.GraphModule) -> list[torch.fx.Node]:
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return [node for node in pytree.tree_leaves(output.args) if isinstance(node, torch.fx.Node)]


_VIEWS = {
    torch.ops.aten.view, torch.ops.aten._unsafe_view, torch.ops.aten.reshape,
    torch.ops.aten.permute, torch.ops.aten.transpose, torch.ops.aten.t, torch.ops.aten.alias,
    torch.ops.aten.expand, torch.ops.aten.unsqueeze, torch.ops.aten.squeeze,
    torch.ops.aten.slice, torch.ops.aten.select, torch.ops.aten.detach, torch.ops.aten.split,
    torch.ops.aten.split_with_sizes,
}  # fmt: skip


def _base_of(node: torch.fx.Node) -> torch.fx.Node:
    """The node whose memory a view shows."""
    while node.op == "call_function" and _packet(node) in _VIEWS:
        node = node.all_input_nodes[0]
    return node


def _packet(node: torch.fx.Node) -> Any:
    return getattr(node.target, "overloadpacket", None)


def _bytes_of(node: torch.fx.Node) -> int:
    value = node.meta.get("val")
    return _bytes(value) if isinstance(value, Tensor) else 0


def _working_of(backward: torch.fx.GraphModule) -> tuple[float, float]:
    """Bytes at most at a time beyond what is kept: growing with tokens, and not.

    What was kept goes as it is read for the last time. Elementwise chains are fused: only what a
    product or an attention makes or takes, and what is returned, is ever in memory. Gradients of
    parameters are counted elsewhere.
    """
    returned = {_base_of(node) for node in _returned(backward)}
    last_use = _last_uses(backward)
    live: dict[torch.fx.Node, int] = {}
    most, most_fixed, at_start = 0, 0, 0
    for position, node in enumerate(backward.graph.nodes):
        size = _bytes_of(node) if _is_in_memory(node, returned) else 0
        if size and size % NUM_TOKENS == 0:
            live[node] = size
            if node.op == "placeholder" and not node.name.startswith("tangents"):
                at_start += size
        elif node.op != "placeholder":
            most_fixed = max(most_fixed, size)
        if node.op != "placeholder":
            most = max(most, sum(live.values()))
            for gone in [n for n in live if last_use.get(n, -1) <= position and n not in returned]:
                del live[gone]
    return max(most - at_start, 0), most_fixed


def _last_uses(graph: torch.fx.GraphModule) -> dict[torch.fx.Node, int]:
    """The place in the graph where each node's memory is read for the last time."""
    last: dict[torch.fx.Node, int] = {}
    for position, node in enumerate(graph.graph.nodes):
        for source in node.all_input_nodes:
            last[_base_of(source)] = position
    return last


def _is_in_memory(node: torch.fx.Node, returned: set[torch.fx.Node]) -> bool:
    if _packet(node) in _VIEWS or not _bytes_of(node):
        return False
    return (
        node.op == "placeholder"
        or node in returned
        or _is_heavy(node)
        or any(map(_is_heavy, _readers(node)))
    )


def _readers(node: torch.fx.Node) -> Iterable[torch.fx.Node]:
    for user in node.users:
        if _packet(user) in _VIEWS:
            yield from _readers(user)
        else:
            yield user


_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm}


def _is_heavy(node: torch.fx.Node) -> bool:
    """Whether it is a call of its own, not part of a fused chain."""
    packet = _packet(node)
    if packet in _PRODUCTS:
        return True
    namespace = getattr(node.target, "namespace", "aten")
    return node.op == "call_function" and namespace not in ("aten", "prims", "")


# -- sizes --------------------------------------------------------------------------------------


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _by_tokens(sizes: Iterable[int]) -> tuple[float, float]:
    """Bytes a token of what grows with tokens, and bytes of what does not."""
    sizes = list(sizes)
    growing = sum(size for size in sizes if size % NUM_TOKENS == 0)
    return growing / NUM_TOKENS, float(sum(sizes) - growing)

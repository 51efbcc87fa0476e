"""How a model's decoder layers are run: recomputed or not, dequantized once or each time, compiled.

None of it changes what is computed. The layers' classes are exchanged for subclasses whose forward
asks an ``Execution``; which layers are recomputed and kept may be set again at any time.

Compilation serves all layers alike: they are handed to one compiled function, as its argument, and
what differs between them (weights, and the number of tokens between passes) is an input of its
graph. It is used where gradients are made; evaluation and generation run as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch._functorch.config as functorch_config
import torch.compiler.config as compiler_config
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ft.model.frozen import hold_weights

_TOKEN_DIMS = {1: (0,), 2: (0, 1), 3: (0, 1), 4: (0, 2, 3)}
"""By a layer input's number of dimensions, those that count records or tokens: boundaries [N+1];
positions [B, T]; hidden states [B, T, H] and rotations [B, T, D]; a mask [B, 1, T, T]."""

_LENGTHS = "L['kwargs']['max_length_q'],L['kwargs']['max_length_k']"
"""As the compiler names them: where the plain numbers among a layer's inputs come from."""

_MAX_COMPILATIONS = 64
"""Of one function: kinds of layers, kept or not, and ranges of lengths for which kernels differ."""

_NUM_PASSES_MARKED = 4
"""Passes whose inputs are marked as of varying length: compilation happens in the first ones."""


class Execution:
    """The decoder layers of one model, and how they run."""

    def __init__(self, model: nn.Module, compute_dtype: torch.dtype = torch.float32) -> None:
        """Takes the layers over; they run as before until they are told otherwise.

        Args:
            model: Whose layers.
            compute_dtype: Of their products, in which dequantized weights are kept.
        """
        self.compute_dtype = compute_dtype
        self.layers = decoder_layers(model)
        self.recomputed_layers: frozenset[int] = frozenset()
        self.kept_layers: frozenset[int] = frozenset()
        self._compiled: Callable[..., Any] | None = None
        self._on_failure: Callable[[str], None] | None = None
        self._num_calls = 0
        for number, layer in enumerate(self.layers):
            layer.__class__ = _planned(type(layer))  # type: ignore[arg-type]  # classes hash
            layer.__dict__["_execution"] = self
            layer.__dict__["_number"] = number

    @property
    def is_compiled(self) -> bool:
        """Whether layers run compiled where gradients are made."""
        return self._compiled is not None

    def set(self, *, recomputed_layers: Collection[int], kept_layers: Collection[int]) -> int:
        """Says which layers are recomputed, and which keep their dequantized weights.

        Args:
            recomputed_layers: Numbers of the layers, from 0, whose activations are made anew in
                the backward pass.
            kept_layers: Those whose frozen weights are held in the compute format.

        Returns:
            Bytes of the kept weights.
        """
        self.recomputed_layers = frozenset(recomputed_layers)
        self.kept_layers = frozenset(kept_layers)
        self._num_calls = 0
        return sum(
            hold_weights(layer, dequantized=number in self.kept_layers, dtype=self.compute_dtype)
            for number, layer in enumerate(self.layers)
        )

    def compile(
        self,
        is_wanted: bool = True,
        *,
        on_failure: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        """Compiles the layers at their next calls, or runs them as they are again.

        Args:
            is_wanted: False for as they are.
            on_failure: Told why the layers cannot be compiled; they then run as they are. None
                raises.
            options: Of ``torch.compile``.
        """
        self._num_calls = 0
        self._on_failure = on_failure
        self._compiled = None
        if is_wanted:
            limits = torch._dynamo.config
            limits.recompile_limit = max(limits.recompile_limit, _MAX_COMPILATIONS)
            self._compiled = torch.compile(_own_copy(_run_layer), fullgraph=True, **options)

    def run(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One layer's forward pass."""
        if not (torch.is_grad_enabled() and layer.training):
            return _run_layer(layer, args, kwargs)
        is_recomputed = layer.__dict__["_number"] in self.recomputed_layers
        if self._compiled is None:
            return _call(_run_layer, layer, args, kwargs, is_recomputed)
        args = _with_gradient(args)
        is_settled = self._num_calls >= _NUM_PASSES_MARKED * len(self.layers)
        self._num_calls += 1
        function = self._compiled_pass(self._compiled)
        if is_settled:
            return _call(function, layer, args, kwargs, is_recomputed)
        _mark_token_dims((args, kwargs))
        with _compiling_once():
            return _call(function, layer, args, kwargs, is_recomputed)

    def _compiled_pass(self, compiled: Callable[..., Any]) -> Callable[..., Any]:
        """One layer's pass, compiled, or as it is where that fails; recomputed as it was computed.

        An exception that passed through torch 2.11's ``checkpoint`` would leave its hooks on what
        follows while anything holds the traceback, so the checkpointed function catches it.
        """
        function, is_known = compiled, False

        def run(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            nonlocal function, is_known
            if is_known:
                return function(layer, args, kwargs)
            is_known = True
            try:
                return function(layer, args, kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler comes to, training goes on
                if self._on_failure is None:
                    raise
                self._give_up_compiling(error, self._on_failure)
                function = _run_layer
            return function(layer, args, kwargs)

        return run

    def _give_up_compiling(self, error: Exception, on_failure: Callable[[str], None]) -> None:
        self._compiled = None
        first_lines = " ".join(str(error).strip().splitlines()[:2])
        on_failure(f"{type(error).__name__}: {first_lines}")


def _call(
    function: Callable[..., Any],
    layer: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    is_recomputed: bool,
) -> Any:
    """The function's pass; recomputed, the backward pass calls the same function again."""
    if is_recomputed:
        return checkpoint(function, layer, args, kwargs, use_reentrant=False)
    return function(layer, args, kwargs)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of the model's decoder in their order; none if it is built in another way."""
    stacks = [
        list(module)
        for module in model.modules()
        if isinstance(module, nn.ModuleList)
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in module)
    ]
    return max(stacks, key=len, default=[])


@cache
def _planned(layer_class: type[nn.Module]) -> type[nn.Module]:
    """The class of a layer that asks its ``Execution``; it keeps its name, which libraries read."""

    class Planned(layer_class):  # type: ignore[misc, valid-type]
        _runs = staticmethod(layer_class.forward)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            execution: Execution = self.__dict__["_execution"]
            return execution.run(self, args, kwargs)

    Planned.__name__, Planned.__qualname__ = layer_class.__name__, layer_class.__qualname__
    Planned.__module__ = layer_class.__module__
    return Planned


def _run_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return layer._runs(layer, *args, **kwargs)


def _own_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a code object of its own.

    Compilations are counted and looked up by code object: those of another model in this process
    would count against this one's.
    """
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _with_gradient(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first layer's input with a gradient like the others', so that one graph serves them all.

    Over frozen embeddings it would have none; that saves one product in a hundred, and costs a
    second compilation.
    """
    if args and isinstance(args[0], Tensor) and not args[0].requires_grad:
        return (args[0].detach().requires_grad_(), *args[1:])
    return args


@contextmanager
def _compiling_once() -> Iterator[None]:
    """Both passes at once, and for all lengths.

    The backward pass is else compiled when it comes, where nobody could run it otherwise; the
    longest record's length, a plain number, else counts as a constant until it has changed.
    """
    with ExitStack() as settings:
        if hasattr(functorch_config, "force_non_lazy_backward_lowering"):
            settings.enter_context(functorch_config.patch(force_non_lazy_backward_lowering=True))
        if hasattr(compiler_config, "dynamic_sources"):
            settings.enter_context(compiler_config.patch(dynamic_sources=_LENGTHS))  # type: ignore[attr-defined]
        yield


def _mark_token_dims(value: Any) -> None:
    """Tells the compiler which dimensions vary, so that it need not find out by compiling again."""
    if isinstance(value, Tensor):
        for dim in _TOKEN_DIMS.get(value.ndim, ()):
            if value.shape[dim] > 1:
                torch._dynamo.maybe_mark_dynamic(value, dim)
    elif isinstance(value, dict):
        for each in value.values():
            _mark_token_dims(each)
    elif isinstance(value, tuple | list):
        for each in value:
            _mark_token_dims(each)

"""Adapted linears that read one tensor make their updates at once.

    [x A_1^T, x A_2^T, ..] = x [A_1; A_2; ..]^T        one product forward, one each for dA and dx
    (x A_i^T) B_i^T                                    one batch for neighbours of one shape

A member asks its group for its update. The group makes all of them for a tensor that it does not
hold, hands them out, and lets go of tensor and updates with the last one. So nothing is assumed: a
member that comes with another tensor gets the update of that one, and all that a wrong guess costs
is the work for updates that nobody asks for, in one pass: then the group is none any more. (A
resumed process guesses anew, so where a guess is wrong its first pass may differ by a rounding.)

An update is what the member would make alone up to the order of its sums (a product of another
shape may sum in another order): the same within a rounding of the compute format. The gradient of
the tensor is rounded once instead of member by member.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ft.kernels.lora_linear import updates_of_one_input

_READ_ONE_TENSOR = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_proj", "q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)
"""Names of a module's children that are given the same tensor, in models as they are."""


class SharedInput:
    """Some linears that are thought to be given the same tensor, and their updates of it.

    The tensor is told by identity. One that is changed in place between two members is not told
    apart; it cannot be trained on anyway, because each member keeps it for its dA.
    """

    def __init__(self, num_rows: tuple[int, ...]) -> None:
        """Of members with so many outputs each, in the order in which their factors are stacked."""
        self.num_rows = num_rows
        self.is_wrong = False
        """Whether a pass ended before all members had come."""
        self._held: tuple[Tensor, tuple[Tensor, ...], int] | None = None
        """The tensor, the members' updates, and how many of them have not been asked for."""

    def update(
        self,
        place: int,
        x: Tensor,
        in_format: Callable[[Tensor], Tensor],
        factors: tuple[Tensor, Tensor],
    ) -> Tensor:
        """A member's ``[T, O]``: made with those of all members, and kept until the last one came.

        Args:
            place: The member's.
            x: ``[*, I]``, the very tensor that the member was given.
            in_format: Gives it in the compute format.
            factors: All members' A and scaled B, stacked.
        """
        held = self._held
        if held is None or held[0] is not x:
            updates = updates_of_one_input(in_format(x), *factors, self.num_rows)
            held = (x, updates, len(updates))
        _, updates, num_awaited = held
        self._held = (x, updates, num_awaited - 1) if num_awaited > 1 else None
        return updates[place]

    def let_go(self) -> None:
        """Holds nothing any more."""
        self._held = None

    def end_pass(self) -> None:
        """What is held at the end of a pass is held for members that do not come."""
        self.is_wrong = self.is_wrong or self._held is not None
        self.let_go()


def read_one_tensor(model: nn.Module, among: Collection[Any]) -> Iterator[list[Any]]:
    """Layers that go by the names of those that share their input, two at least together.

    Args:
        model: Whose layers.
        among: Those that may share; each needs ``trained_factors``.
    """
    known = {id(layer) for layer in among}
    for parent in model.modules():
        if getattr(parent, "is_kv_shared_layer", False):
            continue  # it takes another layer's keys and values, and calls its own never
        children = parent._modules
        for names in _READ_ONE_TENSOR:
            found: list[Any] = [children[n] for n in names if id(children.get(n)) in known]
            alike = [layer for layer in found if _kind(layer) == _kind(found[0])]
            if len(alike) > 1:
                yield alike
                known -= {id(layer) for layer in alike}


def _kind(layer: Any) -> tuple[torch.Size, torch.dtype, torch.device]:
    a: Tensor = layer.trained_factors()[0]
    return a.shape, a.dtype, a.device

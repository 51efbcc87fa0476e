"""Does the model keep the records of a pack apart? Asked of the model itself, before it trains.

Whether positions alone keep records apart is up to each model's own code: some make their positions
from a mask, and none of them says so. What would be learned then is wrong in silence. So two
records are laid in one row, the first is exchanged for another, and the answers at the second one
must not move; how much they move when both are one record is the measure. Layers that carry state
along the row (recurrent, convolutions) do say so, and may leak too little to be measured.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ft.data.batches import Layout, PackedRow
from ft.data.segments import IGNORE_INDEX
from ft.model import LoadedModel
from ft.model.attention import read_attention_traits
from ft.runtime import Problem, UserError

_LENGTH = 8
_TOLERANCE = 0.02
"""Share of the full effect: rounding in 8 bits is below it, a leak of the attention far above."""


def require_records_apart(model: LoadedModel, layout: Layout) -> None:
    """Refuses to pack for a model in which records of a row would see each other.

    Raises:
        UserError: they would.
    """
    base = model.model.get_base_model() if model.has_adapter else model.model
    is_stateless = read_attention_traits(base.config).supports_flat_batches
    if not is_stateless or _share_that_leaks(model, base, layout) > _TOLERANCE:
        raise UserError(
            Problem(
                f"sample_packing: in this model ({type(base).__name__}, "
                f"{model.attention.implementation}) the records of a row see each other",
                fix="set sample_packing: false; group_by_length: true saves pad tokens as well",
            )
        )


def _share_that_leaks(model: LoadedModel, base: torch.nn.Module, layout: Layout) -> float:
    """The first record's effect on the second, as a share of what it is within one record."""
    was_training = model.model.training
    model.model.eval()
    try:
        with torch.no_grad(), model.autocast():
            leak = _effect_of_first_record(base, layout, model.device, (_LENGTH, _LENGTH))
            whole = _effect_of_first_record(base, layout, model.device, (2 * _LENGTH,))
    finally:
        model.model.train(was_training)
    return leak / whole if whole else 0.0


def _effect_of_first_record(
    model: torch.nn.Module, layout: Layout, device: torch.device, record_lengths: tuple[int, ...]
) -> float:
    """How far the logits of the row's second half move when its first half is exchanged."""
    first, other, second = np.arange(3 * _LENGTH, dtype=np.int32).reshape(3, _LENGTH)
    one, two = (
        _logits(model, layout, device, np.concatenate([half, second]), record_lengths)
        for half in (first, other)
    )
    return float((one - two).abs().max())


def _logits(
    model: torch.nn.Module,
    layout: Layout,
    device: torch.device,
    input_ids: np.typing.NDArray[np.int32],
    record_lengths: tuple[int, ...],
) -> Tensor:
    """Two equal rows, as training lays them out; their logits after the second half's tokens."""
    labels = input_ids.copy()
    labels[: _LENGTH + 1] = IGNORE_INDEX
    row = PackedRow(input_ids, labels, record_lengths)
    batch = layout.batch([row, row]).to(device)
    logits: Tensor = model(**batch.inputs, use_cache=False).logits
    return logits.float()

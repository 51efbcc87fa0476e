"""What the plan counts without values is what autograd keeps in a real training step."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ft.data.batches import Flat, PackedRow, Padded
from ft.evaluate.objective import SupervisedTuning
from ft.model import Hardware, build_model, choose_precision, load_tokenizer
from ft.plan import Choice, LossNeed
from ft.plan.memory import PassSize, peak_memory
from ft.spec import load_spec
from ft.train.workload import assumed_rows, need_of
from runs import write_config

CPU = Hardware("cpu", "a CPU", memory_bytes=2**34, supports_bf16=True)
NUM_TOKENS = 320

KINDS = {
    "lora": {},
    "lora, dropout": {"lora_dropout": 0.1},
    "qlora in bf16": {"bf16": True, "adapter": "qlora", "load_in_4bit": True},
    "full": {"adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_linear": None},
    "full in bf16": {
        "adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_linear": None,
        "bf16": True,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "num_recomputed"), [*((kind, 0) for kind in KINDS), ("lora", 1), ("full", 2)]
)
def test_counts_what_a_real_step_keeps(tmp_path, tiny_llama, kind, num_recomputed):
    keys = KINDS[kind]
    settings = {"sequence_len": NUM_TOKENS, **keys}
    spec = load_spec(write_config(tmp_path, tiny_llama, **settings), []).spec
    tokenizer = load_tokenizer(spec.model)
    precision = choose_precision(spec.precision, CPU, trains_all=spec.adapter.adapter is None)
    model = build_model(spec.model, spec.adapter, precision, None, tokenizer, hardware=CPU, seed=1)
    model.execution.set(recomputed_layers=range(num_recomputed), kept_layers=())
    layout = Flat(NUM_TOKENS) if model.attention.is_varlen else Padded(0)
    objective = SupervisedTuning(layout, has_loss_head=model.loss_head is not None)
    batch = layout.batch([_row()])
    live = _Live()
    with model.autocast(), live:
        loss = objective.loss_sum(model.model, batch)
    kept = live.peak

    need = need_of(spec, assumed_rows(spec), CPU, num_tokens=len(tokenizer.tokenizer))
    parts = peak_memory(
        need.model, Choice(num_recomputed, 0, NUM_TOKENS), PassSize(NUM_TOKENS, NUM_TOKENS, 1),
        optimizer=need.optimizer, loss=LossNeed(1e3, 1e12), is_cuda=False,
    )  # fmt: skip
    head = need.loss.fixed_bytes + need.loss.bytes_per_trained_token * NUM_TOKENS
    expected = parts.activations + head
    assert expected == pytest.approx(kept, rel=0.05)
    loss.backward()


class _Live(TorchDispatchMode):
    """Bytes of the storages that were made under it and are still there."""

    def __init__(self):
        super().__init__()
        self.sizes = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in given and id(storage) not in self.sizes:
                    self.sizes[id(storage)] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, id(storage), None)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return result


def _row():
    ids = (torch.arange(NUM_TOKENS) % 90 + 5).to(torch.int32).numpy()
    return PackedRow(ids, ids, (NUM_TOKENS,))

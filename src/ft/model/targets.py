"""Which modules of a model get an adapter, and which are trained whole beside it.

Names are the last parts of modules' paths, as peft takes them: ``q_proj`` stands for every module
of that name. Every name is looked for in the model, so a wrong one is an error and no silence.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from ft.model.grouped import is_packed
from ft.model.label_head import head_modules, is_in_head
from ft.runtime.errors import Problem, UserError
from ft.spec.runspec import AdapterSpec

_PATTERN = re.compile(r"[][\\()|*+?^$]")
"""What tells a regular expression from a name."""


def target_names(model: Any, spec: AdapterSpec) -> tuple[set[str], list[str]]:
    """The modules that get an adapter, and notes for the user.

    Raises:
        UserError: the model has no module of a name.
    """
    linear = linear_layer_names(model)
    paths = [name for name, layer in model.named_modules() if _is_adaptable(layer)]
    named = {name for target in spec.lora_target_modules for name in _named_by(target, paths)}
    unknown = sorted(t for t in named if not any(_matches(t, path) for path in paths))
    _refuse_unknown("lora_target_modules", unknown, linear)
    if spec.lora_target_linear:
        return named | linear, []
    if named or spec.lora_target_parameters:
        return named, []
    return linear, [
        f"no target named: an adapter on every linear layer ({', '.join(sorted(linear))})"
    ]


def target_parameters(model: Any, spec: AdapterSpec) -> list[str]:
    """The tensors that get an adapter themselves: those of fused experts, [num_experts, *, *]."""
    linear = [path for path, layer in model.named_modules() if _is_adaptable(layer)]
    paths = [path for path, _ in model.named_parameters() if path.rpartition(".")[0] not in linear]
    targets = sorted(set(spec.lora_target_parameters))
    unknown = [name for name in targets if not any(_matches(name, path) for path in paths)]
    _refuse_unknown("lora_target_parameters", unknown, {_last_two(path) for path in paths})
    return targets


def check_patterns(model: Any, spec: AdapterSpec, targets: set[str]) -> None:
    """Looks for every name of `lora_rank_pattern` and `lora_alpha_pattern` among what is adapted.

    Args:
        model: The base.
        spec: Names the layers.
        targets: From ``target_names``.

    Raises:
        UserError: a name stands for none of them, or is no regular expression.
    """
    adapted = [*_adapted(model, targets), *target_parameters(model, spec)]
    for key in ("lora_rank_pattern", "lora_alpha_pattern"):
        unknown = [name for name in getattr(spec, key) if not _is_pattern_of(name, adapted, key)]
        _refuse_unknown(key, unknown, {_last(path) for path in adapted})


def _is_pattern_of(name: str, paths: list[str], key: str) -> bool:
    """Whether peft would take one of the paths for it (``get_pattern_key``)."""
    try:
        pattern = re.compile(rf"(.*\.)?({name})$")
    except re.error as error:
        fix = "write names, or regular expressions of the ends of paths"
        raise UserError(Problem(f"{name!r}: {error}", key, fix=fix)) from error
    return any(map(pattern.match, paths))


def layers_to_transform(model: Any, spec: AdapterSpec, targets: set[str]) -> dict[str, list[Any]]:
    """The numbered layers that alone get an adapter, as peft's configs take them; {} for all.

    Raises:
        UserError: there is no layer of a number, with modules that would get an adapter.
    """
    asked = spec.peft_layers_to_transform
    if not asked:
        return {}
    lists = "|".join(map(re.escape, spec.peft_layers_pattern)) or r"[^.]*"
    number = re.compile(rf"(?:^|.*?\.)(?:{lists})\.(\d+)\.")
    found = {int(m[1]) for path in _adapted(model, targets) if (m := number.match(path))}
    if not found:
        what = f"no list of layers with adapters is called {' or '.join(spec.peft_layers_pattern)}"
        raise UserError(Problem(what, "peft_layers_pattern", fix="remove it, or name the list"))
    if unknown := sorted(set(asked) - found):
        what = f"there is no layer {unknown[0]} that would get an adapter"
        fix = f"they are numbered from {min(found)} to {max(found)}"
        raise UserError(Problem(what, "peft_layers_to_transform", fix=fix))
    named = list(spec.peft_layers_pattern)
    return {"layers_to_transform": list(asked), **({"layers_pattern": named} if named else {})}


def trainable_tokens(model: Any, spec: AdapterSpec) -> list[int]:
    """The tokens whose embeddings are trained by themselves.

    Raises:
        UserError: the embeddings have no row for one of them.
    """
    num_rows = model.get_input_embeddings().weight.shape[0]
    asked = list(spec.peft_trainable_token_indices)
    if asked and max(asked) >= num_rows:
        what = f"there is no token {max(asked)}: the embeddings have {num_rows:,} rows"
        fix = f"numbers from 0 to {num_rows - 1}"
        raise UserError(Problem(what, "peft_trainable_token_indices", fix=fix))
    return asked


def _adapted(model: Any, targets: set[str]) -> list[str]:
    """Paths of the modules that get an adapter."""
    paths = [path for path, layer in model.named_modules() if _is_adaptable(layer)]
    return [path for path in paths if any(_matches(name, path) for name in targets)]


def linear_layer_names(model: Any) -> set[str]:
    """Last names of the model's linear layers, without the output head: ``{"q_proj", ...}``."""
    head, label_head = model.get_output_embeddings(), head_modules(model)
    names = {
        path
        for path, layer in model.named_modules()
        if (isinstance(layer, nn.Linear | Conv1D) or is_packed(layer))
        and layer is not head
        and not is_in_head(path, label_head)
        and not _gives_more(layer)
    }
    return {_last(path) if not _last(path).isdigit() else path for path in names}


def _gives_more(layer: nn.Module) -> bool:
    """Whether a model's own kind of linear layer gives more than a product: Llama 4's router."""
    is_own = type(layer).__module__.startswith("transformers.models.")
    return is_own and "forward" in vars(type(layer))


def saved_names(model: Any, spec: AdapterSpec, *, has_new_tokens: bool) -> set[str]:
    """The modules that are trained and saved whole: those named, and embeddings of new tokens.

    Raises:
        UserError: the model has no module of a name, or holds it in few bits.
    """
    saved = set(spec.lora_modules_to_save)
    paths = [path for path, _ in model.named_modules() if path]
    unknown = sorted(name for name in saved if not any(_matches(name, path) for path in paths))
    _refuse_unknown("lora_modules_to_save", unknown, {_last(path) for path in paths})
    quantized = sorted(
        name
        for name in saved
        for path, layer in model.named_modules()
        if _matches(name, path) and _is_in_few_bits(layer)
    )
    if quantized:
        raise UserError(
            Problem(
                f"{quantized[0]} is held in few bits and cannot be trained whole",
                "lora_modules_to_save",
                fix="give it an adapter (lora_target_modules), or load the base in full",
            )
        )
    if has_new_tokens:
        saved |= set(embedding_names(model))
    if has_tied_embeddings(model):
        embedding, *heads = embedding_names(model)
        if saved & {embedding, *heads}:
            saved = (saved - set(heads)) | {embedding}  # peft ties the head to it
    return saved


def _is_in_few_bits(layer: nn.Module) -> bool:
    return is_packed(layer) or hasattr(getattr(layer, "weight", None), "quant_state")


def embedding_names(model: Any) -> list[str]:
    """Last names of the input embedding and, where there is one, the output head."""
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    paths = {id(layer): path for path, layer in model.named_modules()}
    return [_last(paths[id(layer)]) for layer in layers if layer is not None]


def has_tied_embeddings(model: Any) -> bool:
    """Whether the output head is the input embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


_KINDS = {
    "lora_target_parameters": "tensor beside its linear layers",
    "lora_rank_pattern": "module with an adapter",
    "lora_alpha_pattern": "module with an adapter",
}


def _refuse_unknown(key: str, unknown: list[str], possible: set[str]) -> None:
    problems = []
    for name in unknown:
        nearest_first = sorted(sorted(possible), key=lambda other: -_likeness(name, other))
        near = difflib.get_close_matches(name, nearest_first, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        problems.append(
            Problem(
                f"the model has no {_KINDS.get(key, 'module')} named {name!r}",
                key,
                fix=f"{hint}it has {', '.join(nearest_first)}",
            )
        )
    if problems:
        raise UserError(*problems)


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, name).ratio()


def has_transposed_weights(model: Any) -> bool:
    """Whether linear layers hold their weights as [in, out]: GPT-2's Conv1D."""
    return any(isinstance(layer, Conv1D) for layer in model.modules())


def _is_adaptable(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Embedding | Conv1D) or is_packed(layer)


def _named_by(target: str, paths: list[str]) -> set[str]:
    """The modules whose whole path a pattern matches; a name stands for itself."""
    if not _PATTERN.search(target):
        return {target}
    try:
        return {path for path in paths if re.fullmatch(target, path)} or {target}
    except re.error as error:
        fix = "write names, or a regular expression of whole paths"
        raise UserError(Problem(f"{target!r}: {error}", "lora_target_modules", fix=fix)) from error


def _matches(name: str, path: str) -> bool:
    """Whether peft would take the module at ``path`` for ``name``."""
    return path == name or path.endswith(f".{name}")


def _last_two(path: str) -> str:
    return ".".join(path.split(".")[-2:])


def _last(path: str) -> str:
    return path.rpartition(".")[2]

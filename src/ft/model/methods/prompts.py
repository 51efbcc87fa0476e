"""Methods that put something of their own before or into what a record gives.

    prompt tuning   trained embeddings before a row's first token
    P-tuning        the same, made by a small network while it trains
    prefix tuning   trained keys and values before those of a row, in every layer (P-tuning v2);
                    with prefix_projection made by a network, as in the first paper
    LLaMA-Adapter   trained positions that the last layers attend to, by a gate that begins shut

What a network made is all that is published; the network itself is what training goes on with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ft.model.methods.attached import Attached
from ft.model.methods.request import Request
from ft.runtime.errors import Problem, UserError

# isort: split
import peft


@dataclass(frozen=True)
class PromptMethod:
    """One of them."""

    name: str
    own_config: Callable[[Request], Any]

    def config(self, request: Request) -> tuple[Any, list[str]]:
        """Peft's config.

        Raises:
            UserError: the embeddings have new rows, which nothing would train.
        """
        if request.has_new_tokens:
            raise UserError(
                Problem(
                    f"adapter: {self.name} trains no embeddings, so new tokens would never be "
                    "learned",
                    "tokens",
                    fix="use adapter: lora, or leave the new tokens out",
                )
            )
        return self.own_config(request), []

    def begin(self, peft_model: Any, request: Request, load_plain: Callable[[], Any]) -> None:
        """Peft's own first weights."""


def _prompt_tuning(request: Request) -> Any:
    spec = request.spec
    init = spec.prompt_tuning_init or ("TEXT" if spec.prompt_tuning_init_text else "RANDOM")
    return peft.PromptTuningConfig(
        num_virtual_tokens=spec.num_virtual_tokens,
        prompt_tuning_init=init,
        prompt_tuning_init_text=spec.prompt_tuning_init_text,
        tokenizer_name_or_path=request.tokenizer if init == "TEXT" else None,
        tokenizer_kwargs={"trust_remote_code": False} if init == "TEXT" else None,
        task_type="CAUSAL_LM",
    )


def _p_tuning(request: Request) -> Any:
    spec = request.spec
    return peft.PromptEncoderConfig(
        encoder_reparameterization_type=spec.encoder_reparameterization_type,
        encoder_num_layers=spec.encoder_num_layers,
        encoder_dropout=spec.encoder_dropout,
        **_made_by_a_network(request),
    )


def _prefix_tuning(request: Request) -> Any:
    return peft.PrefixTuningConfig(
        prefix_projection=request.spec.prefix_projection, **_made_by_a_network(request)
    )


def _made_by_a_network(request: Request) -> dict[str, Any]:
    """What the two have in common whose positions a network can make."""
    width = request.model.config.get_text_config().hidden_size
    return {
        "num_virtual_tokens": request.spec.num_virtual_tokens,
        "encoder_hidden_size": request.spec.encoder_hidden_size or width,
        "task_type": "CAUSAL_LM",
    }


def _llama_adapter(request: Request) -> Any:
    spec = request.spec
    num_layers = request.model.config.get_text_config().num_hidden_layers
    wanted = spec.adapter_layers or max(1, num_layers - 2)
    if wanted > num_layers:
        what = f"the model has {num_layers} layers, fewer than adapter_layers {wanted}"
        raise UserError(Problem(what, "adapter_layers", fix=f"set it to {num_layers} at most"))
    return peft.AdaptionPromptConfig(
        adapter_len=spec.adapter_len, adapter_layers=wanted, task_type="CAUSAL_LM"
    )


PROMPT_METHODS = (
    PromptMethod("prompt_tuning", _prompt_tuning),
    PromptMethod("p_tuning", _p_tuning),
    PromptMethod("prefix_tuning", _prefix_tuning),
    PromptMethod("llama-adapter", _llama_adapter),
)


class _Generation:
    """peft's step of generation for a prompt, with two things put right; set on the instance.

    peft 0.21 looks for the keys and values so far under the name that transformers 5.24 gave up,
    so it would put the prompt in again at every token, and a prefix not at all. And it drops the
    positions, so that pad tokens on the left would stand between the prompt and the question; here
    positions count what is not masked, as they do in training.
    """

    def __init__(self, peft_model: Any) -> None:
        self._step_of_peft = peft_model.prepare_inputs_for_generation
        self._step_of_base = peft_model.base_model_prepare_inputs_for_generation

    def of_base(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The base's inputs, by the names that peft knows, without positions."""
        inputs: dict[str, Any] = self._step_of_base(*args, **kwargs)
        inputs.pop("position_ids", None)
        if "cache" in inputs:
            inputs["past_key_values"] = inputs.pop("cache")
        return inputs

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The inputs of one step, the prompt's place among them."""
        inputs: dict[str, Any] = self._step_of_peft(*args, **kwargs)
        mask = inputs.get("attention_mask")
        if mask is not None:  # without pad tokens there is none, and the model's own count is right
            embeds = inputs.get("inputs_embeds")
            given = inputs["input_ids"] if embeds is None else embeds
            positions = mask.long().cumsum(-1) - 1
            inputs["position_ids"] = positions.clamp(min=0)[:, -given.shape[1] :]
        return inputs


class AttachedPrompt(Attached):
    """Prompt learning: published is what the positions hold, exact what makes them."""

    exact_is_all = True

    def __init__(self, peft_model: Any) -> None:
        super().__init__(peft_model)
        config = peft_model.active_peft_config
        stands_in_row = config.peft_type != peft.PeftType.PREFIX_TUNING
        self.num_leading_logits = config.num_virtual_tokens if stands_in_row else 0
        step = _Generation(peft_model)
        peft_model.prepare_inputs_for_generation = step
        peft_model.base_model_prepare_inputs_for_generation = step.of_base

    def exact(self) -> dict[str, Tensor]:
        """Every trained tensor, by its name."""
        return {n: p for n, p in self.peft_model.named_parameters() if p.requires_grad}

    def restore(self, exact: dict[str, Tensor]) -> None:
        """Puts them back."""
        own = dict(self.peft_model.named_parameters())
        for name, tensor in exact.items():
            own[name].data.copy_(tensor)

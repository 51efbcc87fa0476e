"""Token generation: greedy unless asked otherwise, stopping at the end token that was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

OnToken = Callable[[int], None]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 = greedy: always the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 = every token may be drawn."""
    repetition_penalty: float = 1.0
    seed: int = 0

    def generation_config(
        self, stop_token_ids: Sequence[int], pad_token_id: int
    ) -> GenerationConfig:
        """The same as transformers' own object."""
        options: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            "eos_token_id": list(stop_token_ids),
            "pad_token_id": pad_token_id,
            "use_cache": True,  # a checkpoint's generation_config may say otherwise
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return GenerationConfig(**options)


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    on_token: OnToken | None = None,
) -> list[list[int]]:
    """New token ids for each prompt, the end token left out.

    Args:
        model: A causal LM in evaluation mode.
        prompts: Token ids; padded on the left to one length.
        sampling: How tokens are chosen.
        stop_token_ids: Generation ends at any of these.
        pad_token_id: Fills up shorter prompts; masked.
        on_token: For a single prompt, told of each token as it comes.
    """
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for i, prompt in enumerate(prompts):
        input_ids[i, width - len(prompt) :] = torch.tensor(prompt)
        attention_mask[i, width - len(prompt) :] = 1
    torch.manual_seed(sampling.seed)
    output = model.generate(  # type: ignore[operator]
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        generation_config=sampling.generation_config(stop_token_ids, pad_token_id),
        streamer=None if on_token is None else _Streamer(on_token, width),
    )
    return [_until_stop(row.tolist(), stop_token_ids) for row in output[:, width:]]


def _until_stop(ids: list[int], stop_token_ids: Sequence[int]) -> list[int]:
    ends = [i for i, token in enumerate(ids) if token in stop_token_ids]
    return ids[: ends[0]] if ends else ids


class _Streamer:
    """transformers' streamer protocol: the prompt comes first, then a token at a time."""

    def __init__(self, on_token: OnToken, prompt_length: int) -> None:
        self.on_token = on_token
        self.to_skip = prompt_length

    def put(self, value: torch.Tensor) -> None:
        for token in value.flatten().tolist():
            if self.to_skip:
                self.to_skip -= 1
            else:
                self.on_token(token)

    def end(self) -> None:
        """Nothing is held back."""

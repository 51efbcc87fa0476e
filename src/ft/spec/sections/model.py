"""What is loaded, and in which number formats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ft.spec.sections.section import Names, Section

Attentions = Literal[
    "auto",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flash_attention_torch",
    "flex_attention",
    "xformers",
    "sage",
    "fp8",
    "varlen",
    "sdpa",
    "eager",
]
HubKernel = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+(@[\w.-]+)?(:[\w.-]+)?$")]
"""A kernel repository of the hub: owner/name, with a revision or a function of it."""


class SpecialTokens(Section):
    """Special tokens by role; one that the tokenizer lacks is added and its embedding trained."""

    bos_token: str | None = Field(None, description="Token at the start of a text.")
    eos_token: str | None = Field(None, description="Token at the end of an answer.")
    unk_token: str | None = Field(None, description="Token for what the vocabulary lacks.")
    pad_token: str | None = Field(None, description="Token that fills rows up; never trained.")
    additional_special_tokens: Names = Field((), description="Further special tokens.")


class ModelSpec(Section):
    """What is loaded."""

    base_model: str = Field(description="Base model: a hub name or a local folder.")
    revision_of_model: str | None = Field(
        None, description="Branch, tag or commit of the base model on the hub."
    )
    tokenizer_config: str | None = Field(
        None, description="Hub name or folder of the tokenizer, if it is not the base model's."
    )
    tokenizer_use_mistral_common: bool = Field(
        False,
        description="Split texts as mistral-common does, whatever Mistral's tokenizer.json says; "
        "conversations are laid out by the chat template.",
    )
    overrides_of_model_config: dict[str, Any] = Field(
        default_factory=dict,
        description="Values of the checkpoint's config.json to replace; with output_router_logits: "
        "true a mixture's auxiliary loss is trained too.",
    )
    random_init_seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(
        None,
        description="Begin with random weights drawn from this seed; base_model is then a folder "
        "of config.json and a tokenizer.",
    )
    load_in_4bit: bool = Field(
        False, description="Hold the frozen base in 4 bits (NF4, double quantization)."
    )
    load_in_8bit: bool = Field(False, description="Hold the frozen base in 8 bits (LLM.int8).")
    model_quantization_config: Literal["Mxfp4Config"] | None = Field(
        None, description="The checkpoint's own format, MXFP4 (gpt-oss), read as plain weights."
    )
    model_quantization_config_kwargs: dict[str, bool] = Field(
        default_factory=dict, description="dequantize: true; goes with model_quantization_config."
    )
    quantize_moe_experts: bool = Field(
        False,
        description="Hold the experts of a mixture in 4 or 8 bits too. They are read plain first.",
    )
    llama4_linearized_experts: bool = Field(
        False,
        description="base_model is a Llama 4 whose checkpoint holds experts as linear layers.",
    )
    reinit_weights: bool = Field(
        False,
        description="Begin with random weights in the shape of base_model, whatever it holds; "
        "drawn from random_init_seed, default 0.",
    )
    ignore_mismatched_sizes: bool = Field(
        False,
        description="SEQ_CLS: a head that base_model has for other labels gives way to a new one.",
    )
    attn_implementation: Attentions | HubKernel = Field(
        "auto", description="Attention backend; what is missing falls back, with a word."
    )
    special_tokens: SpecialTokens = Field(
        SpecialTokens(), description="Special tokens to set on the tokenizer."
    )
    tokens: Names = Field((), description="Further tokens to add to the vocabulary.")


class PrecisionSpec(Section):
    """In which number formats it computes."""

    bf16: bool | Literal["auto", "full"] | None = Field(
        None, description="bfloat16: auto = where the hardware has it; full = weights too."
    )
    fp16: bool | None = Field(None, description="float16 with a loss scaler.")
    tf32: bool | Literal["auto"] | None = Field(
        None, description="TensorFloat-32 products for fp32 tensors on CUDA."
    )

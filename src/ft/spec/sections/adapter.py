"""What is added to the base and trained; which method takes which key says ``ft.spec.methods``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ft.spec.sections.section import Count, Names, Section, Share, WarmUp

AdapterName = Literal[
    "lora",
    "qlora",
    "adalora",
    "ia3",
    "vera",
    "oft",
    "boft",
    "hra",
    "loha",
    "lokr",
    "fourierft",
    "prefix_tuning",
    "prompt_tuning",
    "p_tuning",
    "llama-adapter",
]
FirstWeights = Literal[
    "gaussian", "orthogonal", "pissa", "pissa_niter_4", "pissa_niter_16", "olora", "loftq"
]
"""How LoRA's matrices begin, by PEFT's names."""

Scale = Annotated[float, Field(gt=0)]


class AdapterSpec(Section):
    """What is added to the frozen base; no adapter means that all parameters are trained."""

    adapter: AdapterName | None = Field(
        None,
        description="The method: lora, qlora (= lora on a 4-bit base), another of docs/methods.md, "
        "or nothing: full fine-tuning.",
    )
    lora_r: Count = Field(16, description="Rank of the update matrices.")
    lora_alpha: float = Field(16, gt=0, description="Scale of the update: alpha / r.")
    lora_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Dropout on the adapter's input."
    )
    lora_target_modules: Names = Field(
        (),
        description="Names of the linear layers that get an adapter, or a regular expression that "
        "matches their whole paths.",
    )
    lora_target_parameters: Names = Field(
        (),
        description="Tensors that get an adapter themselves: those of a mixture's fused experts "
        "(experts.gate_up_proj, experts.down_proj). Without lora_target_modules, they alone.",
    )
    lora_target_linear: bool | None = Field(
        None, description="An adapter on every linear layer but the output head."
    )
    lora_rank_pattern: dict[str, Count] = Field(
        default_factory=dict,
        description="Another rank for some layers, by their names or by regular expressions that "
        "match the end of their paths.",
    )
    lora_alpha_pattern: dict[str, Scale] = Field(
        default_factory=dict,
        description="Another lora_alpha for some layers, named likewise.",
    )
    peft_use_rslora: bool = Field(False, description="Scale of the update: alpha / sqrt(r).")
    peft_use_dora: bool = Field(
        False, description="DoRA: a weight's length and direction are trained apart."
    )
    peft_init_lora_weights: bool | FirstWeights = Field(
        True,
        description="What LoRA begins with: true (no change at first), gaussian, orthogonal, "
        "pissa, olora (the base's main directions; pissa_niter_4 and 16: roughly, and sooner), "
        "loftq (what 4 bits lost), or false (random).",
    )
    peft_layers_to_transform: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="Numbers of the layers that get an adapter; none named: all of them."
    )
    peft_layers_pattern: Names = Field(
        (), description="What the list of layers is called, if its name is an unusual one."
    )
    peft_trainable_token_indices: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="Tokens whose embeddings are trained beside the adapter, and no others."
    )
    lora_fan_in_fan_out: bool | None = Field(
        None, description="Weights are stored transposed (GPT-2's Conv1D)."
    )
    lora_modules_to_save: Names = Field(
        (), description="Modules trained and saved whole beside the adapter."
    )
    lora_model_dir: str | None = Field(None, description="Adapter folder to go on from.")
    init_r: Count | None = Field(
        None, description="adalora: rank to begin with; default one and a half times lora_r."
    )
    tinit: WarmUp = Field(0.1, description="adalora: steps before ranks are taken away.")
    tfinal: WarmUp = Field(
        0.25, description="adalora: last steps, in which ranks stay as they are."
    )
    deltaT: Count = Field(  # noqa: N815 - peft's name
        1, description="adalora: steps from one allocation of ranks to the next."
    )
    orth_reg_weight: Annotated[float, Field(ge=0)] = Field(
        0.5, description="adalora: weight of the penalty that keeps the directions orthogonal."
    )
    feedforward_modules: Names = Field(
        (), description="ia3: those of lora_target_modules whose input is scaled, not their output."
    )
    projection_prng_key: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="vera: seed of the random matrices that all layers share."
    )
    d_initial: float = Field(0.1, description="vera: what its scales begin with.")
    oft_block_size: Count = Field(32, description="oft: size of the rotated blocks.")
    boft_block_size: Count = Field(4, description="boft: size of the rotated blocks.")
    boft_n_butterfly_factor: Count = Field(
        1, description="boft: number of sparse factors that make a rotation."
    )
    decompose_factor: Annotated[int, Field(ge=-1)] = Field(
        -1, description="lokr: size of the first Kronecker factor; -1: as square as can be."
    )
    n_frequency: Count = Field(1000, description="fourierft: trained frequencies a layer.")
    num_virtual_tokens: Count = Field(
        20, description="prefix_tuning, prompt_tuning, p_tuning: trained positions before a record."
    )
    prompt_tuning_init: Literal["RANDOM", "TEXT", "SAMPLE_VOCAB"] | None = Field(
        None,
        description="prompt_tuning: what they begin with; default TEXT if a text is given.",
    )
    prompt_tuning_init_text: str | None = Field(
        None, description="prompt_tuning: the text whose tokens the positions begin with."
    )
    prefix_projection: bool = Field(
        False,
        description="prefix_tuning: make the prefix by a network, as the first paper did; without "
        "it, it is P-tuning v2.",
    )
    encoder_hidden_size: Count | None = Field(
        None, description="prefix_tuning, p_tuning: width of that network; default the model's."
    )
    encoder_reparameterization_type: Literal["MLP", "LSTM"] = Field(
        "MLP", description="p_tuning: the network that makes the positions."
    )
    encoder_num_layers: Count = Field(2, description="p_tuning: layers of its LSTM.")
    encoder_dropout: Share = Field(0.0, description="p_tuning: dropout of its LSTM.")
    adapter_len: Count = Field(10, description="llama-adapter: trained positions a layer.")
    adapter_layers: Count | None = Field(
        None,
        description="llama-adapter: number of last layers; default all but the first two.",
    )
    unfrozen_parameters: Names = Field(
        (),
        description="Without an adapter: train these parameters alone; each is matched as a "
        "regular expression from a name's beginning.",
    )

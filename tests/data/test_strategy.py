"""Users' own strategy files: found, checked, loaded, and called with care."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import tiny
from ft.data.layout import StrategyOptions
from ft.data.segments import IGNORE_INDEX, RecordError
from ft.data.strategy import check_strategy, resolve_strategy
from ft.data.tokenize import tokenize
from ft.runtime.errors import UserError
from ft.spec.runspec import DatasetSpec

FIXTURES = Path(__file__).parents[1] / "fixtures"
RECORD = {
    "context": "CREATE TABLE head (age INTEGER)",
    "question": "How many?",
    "answer": "SELECT 1",
}
OPTIONS = StrategyOptions(sequence_len=128)


def resolve(type_name, base_dir=FIXTURES, tokenizer=None, options=OPTIONS):
    spec = DatasetSpec(path="-", type=type_name)
    return resolve_strategy(spec, base_dir, tokenizer or tiny.llama_tokenizer(), options)


def rows(type_name, record, base_dir=FIXTURES, tokenizer=None, options=OPTIONS):
    tokenizer = tokenizer or tiny.llama_tokenizer()
    strategy = resolve(type_name, base_dir, tokenizer, options).strategy
    return tokenize([strategy.render(record)], tokenizer)[0]


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(dedent(text))
    return folder


OWN = """
    from ft.data import Segment

    def segments(record):
        return [
            Segment(f"Q: {record['question']}\\nA:"),
            Segment(record["answer"], is_trained=True, ends_turn=True),
        ]
"""


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("context_qa2", "context_qa"),
        ("context_qa2.load", "context_qa.load"),
        ("./context_qa2.py", "context_qa"),
        ("context_qa2.load_404", "context_qa.load_404"),
        ("./context_qa2.py:load_404", "context_qa.load_404"),
    ],
)
def test_the_classic_strategy_file_equals_the_built_in_layout(any_tokenizer, theirs, ours):
    record = {**RECORD, "article": RECORD["context"], "unanswerable_question": "Who?"}
    found = rows(theirs, record, tokenizer=any_tokenizer)
    assert found == rows(ours, record, tokenizer=any_tokenizer)


def test_train_on_inputs_reaches_the_classic_strategy_file():
    (row,) = rows("context_qa2", RECORD, options=StrategyOptions(128, train_on_inputs=True))
    assert row.labels == row.input_ids


def test_a_file_is_named_with_its_path_and_sum():
    source = resolve("context_qa2").source
    assert source.path == str(FIXTURES / "context_qa2.py")
    assert len(source.sha256) == 64
    assert resolve("alpaca").source is None


def test_a_function_that_gives_segments_is_a_strategy(tmp_path):
    tokenizer = tiny.gpt2_tokenizer()
    (row,) = rows("mine", RECORD, write(tmp_path, OWN), tokenizer)
    assert tokenizer.decode(row.input_ids) == "Q: How many?\nA:SELECT 1<|endoftext|>"
    assert (
        tokenizer.decode([label for label in row.labels if label >= 0]) == "SELECT 1<|endoftext|>"
    )


def test_files_are_looked_up_beside_the_yaml_then_in_prompt_strategies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yaml_folder = write(tmp_path / "yaml", OWN)
    strategies = write(tmp_path / "prompt_strategies", OWN)
    assert resolve("mine", yaml_folder).source.path == str(yaml_folder / "mine.py")
    (yaml_folder / "mine.py").unlink()
    assert resolve("mine", yaml_folder).source.path == "prompt_strategies/mine.py"
    assert resolve("./mine.py", yaml_folder).source.path == "prompt_strategies/mine.py"
    (strategies / "mine.py").rename(tmp_path / "mine.py")
    assert resolve("./mine.py", yaml_folder).source.path == "mine.py"


def test_built_in_names_win_unless_the_type_is_a_path(tmp_path):
    folder = write(tmp_path, OWN, "alpaca.py")
    assert resolve("alpaca", folder).source is None
    assert resolve("./alpaca.py", folder).source is not None
    assert resolve("alpaca.py", folder).source is not None


def test_a_missing_file_says_where_it_was_looked_for_and_the_nearest_name():
    with pytest.raises(UserError) as caught:
        check_strategy(DatasetSpec(path="-", type="contex_qa2"), FIXTURES)
    text = str(caught.value)
    assert str(FIXTURES / "contex_qa2.py") in text
    assert str(Path("prompt_strategies", "contex_qa2.py")) in text
    assert "nearest: context_qa2" in text


def test_a_missing_function_names_those_that_are_there():
    with pytest.raises(UserError, match=r"(?s)no function 'load_v2'.*it has load_404, load"):
        check_strategy(DatasetSpec(path="-", type="context_qa2.load_v2"), FIXTURES)


def test_a_syntax_error_is_found_without_running_the_file(tmp_path):
    folder = write(tmp_path, "print('ran')\ndef load(:\n    pass\n")
    with pytest.raises(UserError, match=r"mine\.py:2:\d+: SyntaxError"):
        check_strategy(DatasetSpec(path="-", type="mine"), folder)


def test_the_check_imports_nothing_heavy():
    code = (
        "import sys; from pathlib import Path; from ft.data.strategy import check_strategy;"
        "from ft.spec.runspec import DatasetSpec;"
        f"check_strategy(DatasetSpec(path='-', type='context_qa2'), Path({str(FIXTURES)!r}));"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import no_such_module", "mine.py:2: ModuleNotFoundError: No module named"),
        ("from axolotl.prompters import Nothing", "mine.py:2: ImportError: cannot import name"),
        ("1 / 0", "mine.py:2: ZeroDivisionError"),
        ("raise SystemExit", "mine.py:2: SystemExit"),
    ],
)
def test_an_error_within_the_file_is_shown_as_its_own(tmp_path, line, message):
    folder = write(tmp_path, f"\n{line}\ndef load(tokenizer, cfg): pass\n")
    with pytest.raises(UserError) as caught:
        resolve("mine", folder)
    assert message in str(caught.value)
    assert line in str(caught.value)


def test_load_may_fail_or_return_nothing(tmp_path):
    with pytest.raises(UserError, match=r"mine\.py:3: KeyError"):
        resolve("mine", write(tmp_path, "\ndef load(tokenizer, cfg):\n    return {}[1]\n"))
    with pytest.raises(UserError, match=r"mine\.py:3: SystemExit: 3"):
        resolve("mine", write(tmp_path, "\ndef load(tokenizer, cfg):\n    raise SystemExit(3)\n"))
    with pytest.raises(UserError, match="NoneType, which has no tokenize_prompt"):
        resolve("mine", write(tmp_path, "def load(tokenizer, cfg): pass\n"))


def test_a_file_may_import_what_lies_beside_it(tmp_path):
    write(tmp_path, "PREFIX = 'Say: '\n", "words_beside.py")
    text = OWN.replace("from ft.data", "from words_beside import PREFIX\n    from ft.data")
    write(tmp_path, text.replace('f"Q: ', 'PREFIX + f"Q: '))
    tokenizer = tiny.gpt2_tokenizer()
    (row,) = rows("mine", RECORD, tmp_path, tokenizer)
    assert tokenizer.decode(row.input_ids).startswith("Say: Q: How many?")
    assert str(tmp_path) not in sys.path


def test_a_strategy_that_tokenizes_by_itself(tmp_path):
    text = """
        from axolotl.prompt_tokenizers import (
            PromptTokenizingStrategy, parse_tokenized_to_result, tokenize_prompt_default,
        )
        from axolotl.utils.logging import get_logger

        class Turns(PromptTokenizingStrategy):
            def tokenize_prompt(self, prompt):
                result, length = tokenize_prompt_default()
                asked = self._tokenize(prompt["question"], add_eos_token=False)
                masked = [-100] * len(asked["input_ids"])
                result, length = parse_tokenized_to_result(result, length, asked, masked)
                said = self._tokenize(prompt["answer"], strip_bos_token=True)
                labels = said["input_ids"]
                return parse_tokenized_to_result(result, length, said, labels)[0]

        def load(tokenizer, cfg, ds_cfg):
            assert cfg.no_such_key is None and cfg["sequence_len"] == 128
            assert ds_cfg.type == "mine"
            return Turns(None, tokenizer, cfg.train_on_inputs, cfg.sequence_len)
    """
    tokenizer = tiny.llama_tokenizer()
    (row,) = rows("mine", RECORD, write(tmp_path, text), tokenizer)
    asked = tokenizer("How many?")["input_ids"]
    said = [*tokenizer("SELECT 1")["input_ids"][1:], tokenizer.eos_token_id]
    assert row.input_ids == [*asked, *said]
    assert row.labels == [*[IGNORE_INDEX] * len(asked), *said]


def test_a_batched_strategy_may_make_several_rows_of_a_record(tmp_path):
    text = """
        class Twice:
            supports_batched = True

            def tokenize_prompt(self, columns):
                assert columns["question"] == ["How many?"]
                return {"input_ids": [[1, 2], [3, 4]], "labels": [[1, 2], [3, 4]]}

        def load(tokenizer, cfg):
            return Twice()
    """
    found = rows("mine", RECORD, write(tmp_path, text))
    assert [row.input_ids for row in found] == [[1, 2], [3, 4]]


@pytest.mark.parametrize("style", ["INSTRUCT", "CHAT", "CHATML", "PHI"])
def test_prompt_styles_of_the_axolotl_interface(tmp_path, style):
    text = f"""
        from axolotl.prompt_tokenizers import AlpacaPromptTokenizingStrategy
        from axolotl.prompters import PromptStyle, UnpromptedPrompter

        def load(tokenizer, cfg):
            prompter = UnpromptedPrompter(PromptStyle.{style}.value)
            return AlpacaPromptTokenizingStrategy(prompter, tokenizer, False, 128)
    """
    expected = {
        "INSTRUCT": "### Instruction:\nI\n\n### Input:\nX\n\n### Response:\n",
        "CHAT": "USER: I\nX\nASSISTANT:",
        "CHATML": "<|im_start|>user\nI\nX<|im_end|>\n<|im_start|>assistant\n",
        "PHI": "<|user|>\nI<|end|>X<|assistant|>",
    }[style]
    strategy = resolve("mine", write(tmp_path, text)).strategy
    rendered = strategy.render({"instruction": "I", "input": "X", "output": "R"})
    assert [segment.text for segment in rendered.segments] == [expected, "R"]


def test_the_axolotl_modules_are_there_only_while_a_file_is_loaded(monkeypatch):
    real = type(sys)("axolotl")
    monkeypatch.setitem(sys.modules, "axolotl", real)
    resolve("./context_qa2.py:load_404")
    assert sys.modules["axolotl"] is real
    assert "axolotl.prompters" not in sys.modules


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (
            "return record['nothing']",
            r"strategy raised KeyError: .*mine\.py:3: KeyError: 'nothing'",
        ),
        ("import sys; sys.exit(3)", r"strategy raised SystemExit: .*mine\.py:3: SystemExit: 3"),
        ("return None", "returned NoneType"),
        ("return 'text'", "returned str"),
        ("return ['text']", "str is no Segment"),
        ("from ft.data import Segment; return [Segment(None)]", "text is NoneType"),
    ],
)
def test_what_a_segments_function_gets_wrong_costs_the_record(tmp_path, body, what):
    folder = write(tmp_path, f"\ndef segments(record):\n    {body}\n")
    with pytest.raises(RecordError, match=what):
        rows("mine", RECORD, folder)


@pytest.mark.parametrize(
    ("result", "what"),
    [
        ("None", "returned NoneType"),
        ("{'input_ids': [1]}", "no labels"),
        ("{'input_ids': [1], 'labels': []}", "1 input_ids but 0 labels"),
        ("{'input_ids': ['a'], 'labels': [1]}", "not an integer"),
        ("{'input_ids': [99999], 'labels': [1]}", "vocabulary ends"),
        ("prompt.pop('answer') and 1 / 0", r"mine\.py:4: ZeroDivisionError"),
    ],
)
def test_what_tokenize_prompt_gets_wrong_costs_the_record(tmp_path, result, what):
    text = f"class Wrong:\n    def tokenize_prompt(self, prompt):\n\n        return {result}\n"
    folder = write(tmp_path, f"{text}def load(tokenizer, cfg): return Wrong()\n")
    record = dict(RECORD)
    with pytest.raises(RecordError, match=what):
        rows("mine", record, folder)
    assert record == RECORD


def layout_of(tmp_path, text, record, tokenizer=None, **options):
    folder = write(tmp_path, text)
    return rows("mine", record, folder, tokenizer, StrategyOptions(128, **options))


def test_a_strategy_may_change_how_its_texts_are_tokenized(tmp_path):
    text = """
        from axolotl.prompt_strategies.alpaca_chat import load as load_chat
        from axolotl.prompt_tokenizers import AlpacaPromptTokenizingStrategy
        from axolotl.prompters import AlpacaPrompter, PromptStyle

        class Latent(AlpacaPromptTokenizingStrategy):
            def _tokenize(self, prompt, add_eos_token=True, strip_bos_token=False):
                result = super()._tokenize(prompt, add_eos_token, strip_bos_token)
                result["input_ids"] = [7] + result["input_ids"]
                result["attention_mask"] = [1] + result.attention_mask
                return result

        def load(tokenizer, cfg):
            return Latent(AlpacaPrompter("chat"), tokenizer, cfg.train_on_inputs, cfg.sequence_len)
    """
    record = {"instruction": "I", "output": "R"}
    (row,) = layout_of(tmp_path, text, record)
    (plain,) = rows("alpaca:chat", record)
    start = plain.labels.index(next(label for label in plain.labels if label != IGNORE_INDEX))
    assert row.input_ids == [7, *plain.input_ids[:start], 7, *plain.input_ids[start:]]
    assert row.labels == [IGNORE_INDEX, *plain.labels[:start], 7, *plain.labels[start:]]


def test_a_prompter_of_its_own_formats(tmp_path):
    text = """
        from axolotl.prompt_tokenizers import InstructionPromptTokenizingStrategy
        from axolotl.prompters import AlpacaPrompter

        class Bare(AlpacaPrompter):
            system_prompt = system_no_input_prompt = "S|"

            def match_prompt_style(self):
                self.turn_format = "{instruction}/{input}:"
                self.turn_no_input_format = "{instruction}:"

        class Mine(InstructionPromptTokenizingStrategy):
            def parse_instruction_fields(self, prompt):
                return prompt["question"], "", prompt["answer"]

        def load(tokenizer, cfg):
            return Mine(Bare(), tokenizer, cfg.train_on_inputs, cfg.sequence_len)
    """
    tokenizer = tiny.gpt2_tokenizer()
    (row,) = layout_of(tmp_path, text, RECORD, tokenizer)
    assert tokenizer.decode(row.input_ids) == "S|How many?:SELECT 1<|endoftext|>"


SYSTEM_RECORD = {"instruction": "I", "input": "X", "output": "R", "system": "S"}
ORCA_RECORD = {"question": "Q", "response": "R", "system_prompt": "S"}


@pytest.mark.parametrize(
    ("module", "strategy", "prompter", "type_name", "record"),
    [
        (
            "alpaca_w_system",
            "InstructionWSystemPromptTokenizingStrategy",
            "SystemDataPrompter('chat')",
            "alpaca_w_system",
            SYSTEM_RECORD,
        ),
        (
            "alpaca_w_system",
            "OpenOrcaPromptTokenizingStrategy",
            "OpenOrcaSystemDataPrompter('instruct')",
            "alpaca_w_system.load_open_orca",
            ORCA_RECORD,
        ),
        (
            "orcamini",
            "OpenOrcaPromptTokenizingStrategy",
            "OrcaMiniPrompter()",
            "orcamini",
            ORCA_RECORD,
        ),
        (
            "context_qa",
            "ContextQaV2PromptTokenizingStrategy",
            "ContextV2Prompter()",
            "context_qa.load_v2",
            RECORD,
        ),
        (
            "alpaca_chat",
            "AlpacaPromptTokenizingStrategy",
            "AlpacaConcisePrompter('chat')",
            "alpaca_chat.load_concise",
            SYSTEM_RECORD,
        ),
        (
            "alpaca_chat",
            "AlpacaQAPromptTokenizingStrategy",
            "AlpacaChatPrompter()",
            "alpaca_chat.load_qa",
            RECORD,
        ),
    ],
)
def test_classes_of_the_axolotl_layouts(tmp_path, module, strategy, prompter, type_name, record):
    text = f"""
        from axolotl.prompt_strategies import {module}
        from axolotl.prompt_strategies.{module} import {strategy}, {prompter.partition("(")[0]}

        def load(tokenizer, cfg):
            return {strategy}({prompter}, tokenizer, cfg.train_on_inputs, cfg.sequence_len)
    """
    assert layout_of(tmp_path, text, record) == rows(type_name, record)


@pytest.mark.parametrize(
    ("type_name", "record"),
    [
        ("alpaca_w_system.load_open_orca", ORCA_RECORD),
        ("completion.load", {"text": "x y"}),
        ("metharme.load", {"prompt": "P", "generation": "G"}),
        ("pygmalion.load", {"conversations": [{"role": "bot", "value": "G"}]}),
    ],
)
def test_a_file_may_load_a_built_in_layout(tmp_path, type_name, record):
    module, _, function = type_name.partition(".")
    text = f"""
        from axolotl.prompt_strategies.{module} import {function} as load_theirs

        def load(tokenizer, cfg):
            return load_theirs(tokenizer, cfg)
    """
    assert layout_of(tmp_path, text, record) == rows(type_name, record)
    wrapped = (
        text
        + """
        class Upper:
            def __init__(self, inner):
                self.inner = inner

            def tokenize_prompt(self, prompt):
                return self.inner.tokenize_prompt(prompt)
    """
    )
    wrapped = wrapped.replace(
        "return load_theirs(tokenizer, cfg)", "return Upper(load_theirs(tokenizer, cfg))"
    )
    (row,) = layout_of(tmp_path, wrapped, record)
    assert [row.input_ids] == [each.input_ids for each in rows(type_name, record)]


def test_a_mapping_may_be_loaded_from_a_file(tmp_path):
    text = """
        from axolotl.prompt_strategies.user_defined import UserDefinedDatasetConfig, load as theirs

        def load(tokenizer, cfg):
            keys = UserDefinedDatasetConfig(field_instruction="question", field_output="answer")
            return theirs(tokenizer, cfg, ds_cfg=keys)
    """
    tokenizer = tiny.gpt2_tokenizer()
    (row,) = layout_of(tmp_path, text, RECORD, tokenizer)
    assert tokenizer.decode(row.input_ids) == "How many? SELECT 1<|endoftext|>"


def test_a_strategy_that_wraps_the_data_set(tmp_path):
    text = """
        from axolotl.prompt_tokenizers import DatasetWrappingStrategy

        class Documents(DatasetWrappingStrategy):
            def __init__(self, tokenizer):
                self.tokenizer = tokenizer

            def wrap_dataset(self, dataset, process_count=None, keep_in_memory=False, **kwargs):
                kept = dataset.filter(lambda row: "nothing" not in row["answer"])
                return kept.map(self.tokenize, remove_columns=dataset.column_names)

            def tokenize(self, row):
                ids = self.tokenizer(row["answer"])["input_ids"]
                return {"input_ids": ids, "labels": list(ids)}

        def load(tokenizer, cfg):
            return Documents(tokenizer)
    """
    (row,) = layout_of(tmp_path, text, RECORD)
    assert row.input_ids == row.labels == tiny.llama_tokenizer()("SELECT 1")["input_ids"]
    assert layout_of(tmp_path, text, {**RECORD, "answer": "nothing"}) == []


def test_a_strategy_may_leave_records_out(tmp_path):
    text = """
        from axolotl.prompt_tokenizers import PromptTokenizingStrategy

        class Long(PromptTokenizingStrategy):
            filter_rows = staticmethod(lambda row: len(row["answer"]) > 5)

            def tokenize_prompt(self, prompt):
                return self._tokenize(prompt["answer"])

        def load(tokenizer, cfg):
            return Long(None, tokenizer)
    """
    assert layout_of(tmp_path, text, RECORD)
    with pytest.raises(RecordError, match="left out by the strategy's filter_rows"):
        layout_of(tmp_path, text, {**RECORD, "answer": "no"})


def test_a_file_sees_the_keys_that_were_given_and_no_others(tmp_path):
    folder = write(
        tmp_path,
        """
        from axolotl.utils.dict import DictDefault, remove_none_values

        def load(tokenizer, cfg, ds_cfg):
            assert isinstance(ds_cfg, DictDefault)
            assert "field" not in ds_cfg and ds_cfg.field is None
            assert ds_cfg.get("field_messages", "conversations") == "conversations"
            assert remove_none_values({"a": None, "b": [{"c": None}]}) == {"b": [{}]}
            assert ds_cfg["field_system"] == "rules"
            return type("None_", (), {"tokenize_prompt": lambda self, prompt: None})()
        """,
    )
    spec = DatasetSpec(path="-", type="mine", field_system="rules")
    assert resolve_strategy(spec, folder, tiny.llama_tokenizer(), OPTIONS).source is not None


def test_the_example_to_copy_works_as_it_stands():
    folder = Path(__file__).parents[2] / "prompt_strategies"
    tokenizer = tiny.gpt2_tokenizer()
    (row,) = rows("short_sql", RECORD, folder, tokenizer)
    text = "-- CREATE TABLE head (age INTEGER)\n-- How many?\nSELECT 1<|endoftext|>"
    assert tokenizer.decode(row.input_ids) == text
    assert tokenizer.decode([each for each in row.labels if each >= 0]) == "SELECT 1<|endoftext|>"

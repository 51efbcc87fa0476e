"""Broken strategy files: each is told with its own line, and the record's where there is one."""

import json
import re
import signal
import sys

import pytest

import tiny
from ft.data import prepare_data
from ft.runtime import UserError
from ft.spec import DataSpec

AXOLOTL = "class S:\n    def tokenize_prompt(self, record):\n        {body}\n\ndef load(tokenizer, cfg):\n    return S()\n"


def axolotl(body):
    return AXOLOTL.format(body=body)


# source, and what is said
BROKEN = {
    "syntax_error": ("def segments(record):\n    return [\n", r"s\.py:2\S*: SyntaxError"),
    "indentation": ("def segments(record):\nreturn []\n", r"s\.py:2\S*: \w*Error"),
    "nul_in_the_source": ("def segments(record):\n    return '\0'\n", r"s\.py.*(null|NUL|NUL byte)"),
    "not_utf_8": ("# café\ndef segments(record):\n    return []\n".encode("latin-1"), r"s\.py:1: not UTF-8"),
    "missing_import": ("import nothing_of_this_name\ndef segments(record):\n    return []\n",
                       r"s\.py:1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "raises_when_loaded": ("x = 1 / 0\ndef segments(record):\n    return []\n", r"s\.py:1: ZeroDivisionError"),
    "exits_when_loaded": ("import sys\nsys.exit(0)\ndef segments(record):\n    return []\n", r"s\.py:2: SystemExit"),
    "recursion_when_loaded": ("def f():\n    return f()\nf()\ndef segments(record):\n    return []\n",
                              r"s\.py:\d+: RecursionError"),
    "deep_expression": ("def segments(record):\n    return " + "(" * 5000 + ")" * 5000 + "\n", r"s\.py\S*: "),
    "deep_sum": ("def segments(record):\n    return " + "1+" * 20_000 + "1\n", r"s\.py"),
    "no_function": ("x = 1\n", r"s\.py: no function 'segments' or 'load'"),
    "function_is_a_number": ("segments = 3\n", r"s\.py: segments is no function"),
    "raises": ("def segments(record):\n    return record['nothing']\n",
               r"KeyError[\s\S]*d\.jsonl:1[\s\S]*s\.py:2: KeyError: 'nothing'"),
    "exits": ("import sys\ndef segments(record):\n    sys.exit(1)\n", r"SystemExit[\s\S]*d\.jsonl:1[\s\S]*s\.py:3"),
    "recursion": ("def segments(record):\n    return segments(record)\n", r"RecursionError[\s\S]*d\.jsonl:1[\s\S]*s\.py:2"),
    "returns_none": ("def segments(record):\n    pass\n", r"d\.jsonl:1[\s\S]*returned NoneType"),
    "returns_text": ("def segments(record):\n    return 'text'\n", r"d\.jsonl:1[\s\S]*returned str"),
    "returns_a_number": ("def segments(record):\n    return 7\n", r"d\.jsonl:1[\s\S]*returned int"),
    "generates": ("def segments(record):\n    yield 'a'\n", r"d\.jsonl:1[\s\S]*returned generator"),
    "async": ("async def segments(record):\n    return []\n", r"s\.py:1: 'segments' is async"),
    "async_load": ("async def load(tokenizer, cfg):\n    return None\n", r"s\.py:1: 'load' is async"),
    "segments_of_texts": ("def segments(record):\n    return ['a', 'b']\n", r"d\.jsonl:1[\s\S]*str is no Segment"),
    "without_tokenize_prompt": ("def load(tokenizer, cfg):\n    return object()\n", r"s\.py: .*no tokenize_prompt"),
    "load_returns_none": ("def load(tokenizer, cfg):\n    pass\n", r"s\.py: .*NoneType.*no tokenize_prompt"),
    "tokenize_prompt_is_a_number": ("class S:\n    tokenize_prompt = 3\ndef load(tokenizer, cfg):\n    return S()\n",
                                    r"s\.py: .*tokenize_prompt"),
    "load_takes_none": ("def load():\n    return None\n", r"s\.py: TypeError: load\(\) takes 0"),
    "ids_beyond_the_vocabulary": (axolotl("return {'input_ids': [1, 10**9], 'labels': [1, 10**9]}"),
                                  r"d\.jsonl:1[\s\S]*1000000000"),
    "negative_ids": (axolotl("return {'input_ids': [1, -5], 'labels': [1, 2]}"), r"d\.jsonl:1[\s\S]*-5"),
    "ids_beyond_64_bits": (axolotl("return {'input_ids': [1, 2**80], 'labels': [1, 2**80]}"), r"d\.jsonl:1"),
    "different_lengths": (axolotl("return {'input_ids': [1, 2, 3], 'labels': [1]}"), r"d\.jsonl:1[\s\S]*3[\s\S]*1"),
    "texts_for_ids": (axolotl("return {'input_ids': ['a', 'b'], 'labels': ['a', 'b']}"), r"d\.jsonl:1"),
    "fractions_for_ids": (axolotl("return {'input_ids': [1.5, 2.5], 'labels': [1.5, 2.5]}"), r"d\.jsonl:1"),
    "labels_none": (axolotl("return {'input_ids': [1, 2], 'labels': None}"), r"d\.jsonl:1"),
    "no_labels": (axolotl("return {'input_ids': [1, 2]}"), r"d\.jsonl:1[\s\S]*no labels"),
    "rows_of_nothing": (axolotl("return []"), r"d\.jsonl:1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.TOKENIZERS["chatml"]()


@pytest.fixture(autouse=True)
def within_30_s():
    def hangs(*_):
        raise AssertionError("hangs")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(30)
    yield
    signal.alarm(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = {"question": "How many?", "context": "a table", "answer": "SELECT 1"}
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps(record | {"n": i}) + "\n" for i in range(3))
    )
    return tmp_path


def prepared(folder, tokenizer, source):
    (folder / "s.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    spec = DataSpec.model_validate_json(
        json.dumps({"datasets": [{"path": "d.jsonl", "type": "./s.py"}], "sequence_len": 64})
    )
    return prepare_data(spec, tokenizer=tokenizer, seed=0, base_dir=folder)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_strategies(name, folder, tokenizer):
    source, expected = BROKEN[name]
    with pytest.raises(UserError) as caught:
        prepared(folder, tokenizer, source)
    said = "\n".join(problem.render() for problem in caught.value.problems)
    assert re.search(expected, said), said
    assert "Traceback" not in said
    assert len(said) < 5000


def test_what_a_strategy_prints_is_left_to_it(folder, tokenizer, capsys):
    source = (
        "from ft.data import Segment\n"
        "def segments(record):\n    print('here')\n"
        "    return [Segment('a b', False), Segment(record['answer'], True)]\n"
    )
    assert len(prepared(folder, tokenizer, source).train) == 3
    assert "here" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["random.choice('abcdefgh') * 9", "str(next(count))"])
def test_a_strategy_that_is_not_steady_is_noted_with_its_record(answer, folder, tokenizer):
    source = (
        "import itertools, random\nfrom ft.data import Segment\ncount = itertools.count(1)\n"
        "def segments(record):\n"
        f"    return [Segment('a b', False), Segment({answer}, True)]\n"
    )
    (report,) = prepared(folder, tokenizer, source).report.datasets
    assert any(re.search(r"the second time \(first \S*d\.jsonl:1\)", n) for n in report.notes)


def test_a_slow_strategy_takes_its_time_and_is_told_of(folder, tokenizer):
    source = (
        "import time\nfrom ft.data import Segment\ndef segments(record):\n    time.sleep(0.05)\n"
        "    return [Segment('a b', False), Segment(record['answer'], True)]\n"
    )
    told = []
    (folder / "s.py").write_text(source)
    spec = DataSpec.model_validate_json(
        json.dumps({"datasets": [{"path": "d.jsonl", "type": "./s.py"}], "sequence_len": 64})
    )
    data = prepare_data(
        spec,
        tokenizer=tokenizer,
        seed=0,
        base_dir=folder,
        on_progress=lambda *all: told.append(all),
    )
    assert len(data.train) == 3
    assert told[-1][1] == 3
    assert not [note for note in data.report.datasets[0].notes if "second time" in note]


def test_a_strategy_that_changes_its_record_changes_no_other(folder, tokenizer):
    source = (
        "from ft.data import Segment\n"
        "def segments(record):\n    answer = record.pop('answer')\n    record.clear()\n"
        "    return [Segment('a b', False), Segment(answer, True)]\n"
    )
    data = prepared(folder, tokenizer, source)
    assert len(data.train) == 3
    assert data.layouts[0].response_fields == ("answer",)
    assert not [note for note in data.report.datasets[0].notes if "second time" in note]


def test_python_goes_on_as_before(folder, tokenizer):
    """A file that fails leaves no module and no path behind."""
    modules, paths = set(sys.modules), list(sys.path)
    with pytest.raises(UserError):
        prepared(folder, tokenizer, "x = 1 / 0\ndef segments(record):\n    return []\n")
    assert not {name for name in set(sys.modules) - modules if name.startswith("ft_strategy")}
    assert sys.path == paths

"""A slip of the fingers in any key or value of the dialect gets the right hint."""

import random
from collections.abc import Iterator

import pytest

from ft.runtime import UserError
from ft.spec import load_spec, nearest
from ft.spec.key_table import key_table, old_names

NUM_TYPOS = 800
RIGHT = 0.95
LETTERS = "abcdefghijklmnopqrstuvwxyz_"
SMALL = "base_model: some/model\nlearning_rate: 2e-4\ndatasets: [data.jsonl]\n"


def drop(word, i, rng):
    return word[:i] + word[i + 1 :]


def double(word, i, rng):
    return word[: i + 1] + word[i:]


def swap(word, i, rng):
    return word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :]


def replace(word, i, rng):
    return word[:i] + rng.choice(LETTERS) + word[i + 1 :]


SLIPS = (drop, double, swap, replace)


def slips_of(words: list[str], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Words that are not the word, nor any other word that is right."""
    while True:
        word = rng.choice(words)
        wrong = rng.choice(SLIPS)(word, rng.randrange(len(word)), rng)
        if wrong and wrong not in words:
            yield word, wrong


def top_level() -> list[str]:
    return [name for name in [*key_table(), *old_names()] if "." not in name]


def within(prefix: str) -> list[str]:
    names = [name for name in [*key_table(), *old_names()] if name.startswith(prefix)]
    return [name.removeprefix(prefix) for name in names if "." not in name.removeprefix(prefix)]


def hint_for(tmp_path, text: str, line: int) -> str:
    """The fix of the problem in that line; empty if there is none."""
    path = tmp_path / "c.yml"
    path.write_text(text)
    try:
        load_spec(path)
    except UserError as error:
        at = [problem.fix for problem in error.problems if f":{line}:" in problem.where]
        return at[0] if at else ""
    return ""


def test_the_hint_is_right_for_slips_in_top_level_keys(tmp_path):
    rng = random.Random(0)
    slips = slips_of(top_level(), rng)
    wrong = []
    for _ in range(NUM_TYPOS):
        word, typo = next(slips)
        hint = hint_for(tmp_path, f'{SMALL}"{typo}": 1\n', line=4)
        if hint != f"did you mean {word}?":
            wrong.append((word, typo, hint))
    assert len(wrong) <= (1 - RIGHT) * NUM_TYPOS, wrong


@pytest.mark.parametrize("prefix", ["datasets.", "datasets.type.", "special_tokens."])
def test_the_hint_is_right_for_slips_inside(tmp_path, prefix):
    start = "base_model: some/model\nlearning_rate: 2e-4\n"
    place = {
        "datasets.": 'datasets:\n  - path: x\n    "{}": 1\n',
        "datasets.type.": 'datasets:\n  - {{path: x, type: {{\n    "{}": "1"}}}}\n',
        "special_tokens.": 'datasets: [x]\nspecial_tokens:\n  "{}": "1"\n',
    }[prefix]
    slips = slips_of(within(prefix), random.Random(1))
    wrong = []
    for _ in range(NUM_TYPOS // 4):
        word, typo = next(slips)
        hint = hint_for(tmp_path, start + place.format(typo), line=5)
        if hint != f"did you mean {word}?":
            wrong.append((word, typo, hint))
    assert len(wrong) <= (1 - RIGHT) * NUM_TYPOS // 4, wrong


def test_the_hint_is_right_for_slips_in_values(tmp_path):
    """Words that YAML reads as flags (`on` for `no`) are no slips in a word any more."""
    rng = random.Random(2)
    choices = [(key, list(key.values)) for key in key_table().values() if len(key.values) > 0]
    top = [(key, values) for key, values in choices if "." not in key.name]
    wrong = []
    for _ in range(NUM_TYPOS):
        key, values = rng.choice(top)
        word, typo = next(slips_of(values, rng))
        hint = hint_for(tmp_path, f'{SMALL}{key.name}: "{typo}"\n', line=4)
        if hint != f"did you mean {word}?":
            wrong.append((key.name, word, typo, hint))
    assert len(wrong) <= (1 - RIGHT) * NUM_TYPOS, wrong


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("lora_rr", "lora_r"),
        ("Lora-R", "lora_r"),
        ("learning_rte", "learning_rate"),
        ("warmup", None),
        ("zzz", None),
    ],
)
def test_nearest(typo, meant):
    found = nearest(typo, [key for key in top_level() if not key.startswith("warmup")])
    assert found == meant


def test_one_slip_beats_other_likeness():
    assert nearest("lora_o_kernl", ["lora_kernel", "lora_o_kernel"]) == "lora_o_kernel"

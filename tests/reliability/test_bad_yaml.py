"""200 wrong configs drawn from real ones; `python tests/reliability/yaml_fuzz.py 1000` tries more.

The 93 that were written by hand are in tests/cli/snapshots.
"""

import pytest
import yaml_fuzz

from ft.runtime import UserError
from ft.spec import load_spec


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return yaml_fuzz.prepare_folder(tmp_path)


def test_a_config_is_read_or_refused_with_words_at_a_line_that_it_has(config):
    wrong, num_refused = {}, 0
    for number in range(200):
        verdict = yaml_fuzz.try_config(yaml_fuzz.wrong_config(number), config)
        num_refused += verdict.is_refused
        if verdict.fault:
            wrong[number] = verdict.fault
    assert not wrong
    assert num_refused > 150  # or the mutations would try nothing


def said_of(config, content):
    config.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_spec(config)
    return [problem.render().replace(str(config), "c.yml") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "first_line"),
    [
        (b"a: 1\nb: \xe9\n", "c.yml:2:4: is not UTF-8 text (byte 0xe9)"),
        (b"a: 1\nb: x\x00y\n", "c.yml:2:5: not valid YAML: a character that no text has, U+0000"),
        (b"a: 1\nb: &x [*x]\n", "c.yml:2:4: is nested too deeply (over 50 levels), or in itself"),
        (b"a: &x {<<: *x}\n", "c.yml:1:4: is nested too deeply (over 50 levels), or in itself"),
        (b"a: !!int many\n", "c.yml:1:4: not valid YAML: 'many' can't be read as int"),
        (b"x: 1\n<<: 3\n", "c.yml:2:5: not valid YAML: `<<` takes in a mapping, or a list of mappings"),
        (b"a: !!python/object/apply:os.system [touch x]\n",
         "c.yml:1:4: not valid YAML: a tag (`!...`), which is never followed"),
        (b"a: 1\n" * 60_000, "c.yml: is larger than any config: over 250,000 bytes"),
        (b"a: [" + b"x, " * 30_000 + b"]\n", "c.yml:1:59996: more than 20,000 values (aliases?)"),
    ],
)  # fmt: skip
def test_each_says_what_is_wrong_and_where(config, content, first_line):
    assert said_of(config, content)[0].splitlines()[0] == first_line


def test_an_alias_bomb_goes_off_before_it_fills_the_memory(config):
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "more than 20,000 values" in said_of(config, "\n".join(lines).encode())[0]


def test_of_thousands_of_mistakes_the_first_are_told(config):
    said = said_of(config, "".join(f"key_{i}: 1\n" for i in range(3000)).encode())
    assert len(said) == 51
    assert said[-1].startswith("c.yml: and 2,9")


def test_a_line_of_a_hundred_thousand_letters_is_cut(config):
    assert max(map(len, said_of(config, b"k" * 100_000 + b": 1\n"))) < 1500


def test_a_device_is_no_config():
    with pytest.raises(UserError, match="a device or a pipe"):
        load_spec(yaml_fuzz.Path("/dev/zero"))

"""Chat templates that attack: from the YAML, from a file, from a tokenizer. None gets out."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import runs
import tiny
from ft.data.chat import bounds
from ft.data.chat.templates import Template
from ft.data.segments import RecordError
from ft.runtime import UserError
from ft.spec import load_spec

MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PAYLOADS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('CANARY', 'w') }}",
    "{{ strftime_now.__globals__ }}",
    "{{ strftime_now.__code__.co_consts }}",
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ joiner.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ namespace.__init__.__globals__.os.system('touch CANARY') }}",
    "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
    "{{ lipsum|attr('__globals__') }}{{ (lipsum|attr('__globals__')).os.system('touch CANARY') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os }}",
    "{{ ''|attr('format')|attr('__globals__') }}{{ (''|attr('format')).__self__.__class__.__mro__ }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ ('{0.__cla' ~ 'ss__}').format('') }}",
    "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{% include 'CANARY' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '/etc/passwd' %}",
    "{{ range(10**12)|list }}",
    "{{ (messages|map(attribute='__class__')|list)[0].__mro__ }}",
    "{{ [].__class__.__base__.__subclasses__()[80].__init__.__globals__ }}",
]  # fmt: skip


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
    "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% for k in r %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{% macro m() %}{% for i in range(99999) %}{{ m() }}{% endfor %}{% endmacro %}"
    "{% for i in range(99999) %}{% for j in range(9999) %}{{ i is odd }}{% endfor %}{% endfor %}",
]
LARGE = [
    "{{ 'x' * 10**10 }}",
    "{{ 10**10 * 'x' }}",
    "{{ 9**(9**9) }}",
    "{{ (range(9999)|list) * 10**8 }}",
    "{% set n = namespace(x=2) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
]


@pytest.mark.parametrize("payload", ENDLESS)
def test_a_template_that_does_not_end_is_ended(payload, monkeypatch):
    monkeypatch.setattr(bounds, "LIMIT_S", 1.0)  # the same clock, a shorter time
    started = time.monotonic()
    with pytest.raises(UserError, match="still at work after 1 s"):
        Template(payload).render(MESSAGES)
    assert time.monotonic() - started < 5
    assert Template("{{ messages[0].content }}").render(MESSAGES) == "a", "the next one is whole"


def test_the_limit_is_below_ten_seconds():
    assert bounds.LIMIT_S + bounds._POLL_S < 10


def test_a_template_is_ended_in_any_thread(monkeypatch):
    monkeypatch.setattr(bounds, "LIMIT_S", 0.5)
    with ThreadPoolExecutor(2) as threads:
        endless = threads.submit(Template(ENDLESS[0]).render, MESSAGES)
        usual = [threads.submit(Template("{{ 'a' }}").render, MESSAGES) for _ in range(100)]
        assert {each.result() for each in usual} == {"a"}
        with pytest.raises(UserError, match="still at work"):
            endless.result()


@pytest.mark.parametrize("payload", LARGE)
def test_nothing_is_multiplied_without_bounds(payload):
    started = time.monotonic()
    with pytest.raises((RecordError, UserError), match="so large"):
        Template(payload).render(MESSAGES)
    assert time.monotonic() - started < 1


def test_usual_products_are_computed():
    assert (
        Template("{{ '=' * 40 }}{{ 3 * 4 }}{{ 2 ** 10 }}").render(MESSAGES) == "=" * 40 + "121024"
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if 1 %}" * 5000,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "9" * 5000 + " }}",
    ],
    ids=["brackets", "blocks", "loops", "digits"],
)
def test_a_template_that_cannot_be_compiled_is_refused_with_words(text):
    with pytest.raises(UserError, match="cannot be compiled"):
        Template(text).check_syntax()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_template_may_not_touch(payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RecordError, UserError)):
        template = Template(payload)
        template.check_syntax()
        text = template.render(MESSAGES)
        if not text.strip():  # the sandbox gives an unsafe attribute as nothing
            raise RecordError("nothing came of it")
    assert not (tmp_path / "CANARY").exists()
    assert MESSAGES[0]["content"] == "a"


def test_a_tokenizers_template_is_rendered_in_the_same_sandbox(tmp_path, monkeypatch, tiny_llama):
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny.TOKENIZERS["chatml"]()
    tokenizer.chat_template = PAYLOADS[5]
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "d.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n' * 3)
    config = runs.write_config(
        tmp_path, tiny_llama, tokenizer_config=str(tmp_path / "tokenizer"),
        datasets=[{"path": "d.jsonl", "type": "chat_template"}],
    )  # fmt: skip
    with pytest.raises(UserError, match="chat template refused"):
        runs.run(config)
    assert not (tmp_path / "CANARY").exists()


def config_of(folder, template):
    (folder / "d.jsonl").write_text("{}\n")
    config = folder / "c.yml"
    config.write_text(
        "base_model: a/b\nlearning_rate: 1e-4\nchat_template: jinja\n"
        f"chat_template_jinja: {template}\ndatasets: [{{path: d.jsonl, type: chat_template}}]\n"
    )
    return config


def test_a_template_in_a_file_is_looked_up_beside_the_yaml_first(tmp_path, monkeypatch):
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    for folder, text in ((beside, "{{ 'beside' }}"), (elsewhere, "{{ 'elsewhere' }}")):
        folder.mkdir()
        (folder / "t.jinja").write_text(text)
    monkeypatch.chdir(elsewhere)
    config = config_of(beside, "t.jinja")
    assert load_spec(config).spec.data.chat_template_jinja == "{{ 'beside' }}"
    (beside / "t.jinja").unlink()
    assert load_spec(config).spec.data.chat_template_jinja == "{{ 'elsewhere' }}"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "there is no file t.jinja"), (b"\xff", "it is not UTF-8")]
)
def test_a_template_file_that_cannot_be_read(content, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "t.jinja").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load_spec(config_of(tmp_path, "t.jinja"))
    assert caught.value.problems[0].where.endswith("c.yml:4:1")

"""Wrong configs, drawn from real ones: the same number always gives the same file.

    python tests/reliability/yaml_fuzz.py 1000     tries so many, and says what was wrong with any

A config is either read or refused: with words, at a line that it has, in a moment. Nothing else may
come of it, whatever its bytes are.
"""

from __future__ import annotations

import os
import random
import re
import signal
import string
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ft.cli.preflight import check_inputs
from ft.runtime import UserError
from ft.spec import load_spec

ROOT = Path(__file__).parents[2]
LIMIT_S = 2.0
"""Of processor time; a file of usual size takes some milliseconds."""
HANG_S = 20
"""After so long by the clock a trial is cut off."""
LONGEST_MESSAGE = 30_000
"""Characters of everything that is said of one file."""

_CHAT = """\
base_model: ./model
chat_template: jinja
chat_template_jinja: |
  {% for message in messages %}{{ message.role }}: {{ message.content }}
  {% endfor %}
datasets:
  - path: data.jsonl
    type: chat_template
    field_messages: turns
    message_property_mappings: {role: from, content: value}
    roles: {assistant: [gpt, model], user: [human]}
  - path: data.jsonl
    type: {field_instruction: q, field_output: a, format: "{instruction}"}
special_tokens: {pad_token: "<pad>"}
learning_rate: 2e-4
num_epochs: 3
sample_packing: true
test_datasets: [{path: data.jsonl, type: alpaca, split: "train[:10]"}]
"""
_WORDS = [
    "null", "~", "true", "no", "off", "yes", "1e999", "-1e999", ".nan", ".inf", "-.inf", "1e-4",
    "010", "0x1F", "1_000", "9" * 30, "9" * 5000, "-0", "+1", "1:30", "2026-01-01", "''", '""', "[]",
    "{}", "[[]]", "[{}]", "{a: b}", "- a", "!!python/object/apply:os.system [echo hi]", "!!binary aGk=",
    "!!set {a, b}", "!!omap [a: b]", "!!pairs [a: b]", "!!timestamp 2026-01-01", "!!int many",
    "!!float many", "!!bool many", "!!int ''", "!!float ''", "!!null many", "!!str 1", "!!map [a]",
    "!!seq {a: b}", "!!merge x", "!!value x", "!unknown x", "!<tag:x> y", "&a x", "*a", "*nowhere", "<<", "=",
    "|", ">", "|+99", "@x", "`x`", "%x", "#", "? a", "\x00", "\x1b[31mred\x1b[0m", "\u202eevil",
    "\ufeff", "\x85", "\u2028", "\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"), '"\\ud83d"',
    '"\\x00"', '"\\UFFFFFFFF"', '"\\q"', "日本語", "🙂" * 50, "a" * 10_000, "../" * 50, "/dev/zero", "/dev/stdin",
    "/proc/self/mem", "~nobody_here/x", "~/x", "//", ".", "..", "C:\\x", "hf_" + "a" * 30, "https://u:p@h/x",
    "$(touch canary)", "`touch canary`", "{{ 7*7 }}", "{% for %}", "%s%n", "a\tb", " ", "\\",
]  # fmt: skip
_WHOLE = [
    b"", b"\n", b"\xef\xbb\xbf", b"\x00", b"---\n", b"...\n", b"--- \n--- \n", b"a: 1\n---\nb: 2\n",
    b"%YAML 9.9\n---\na: 1\n", b"%TAG ! tag:x,2000:\n---\n!x a\n", b"\xff\xfea\x00:\x00 \x001\x00",
    b"\xfe\xff\x00a", b"a" * 10_000_000, b"# comment\n" * 1_000_000, b"a: 1\n" * 20_000,
    b"[" * 100_000, b"{" * 100_000, b"- " * 50_000, b"a: {" * 5_000, b"? " * 5_000,
    b"? [a]\n: b\n", b"? {a: b}\n: c\n", b"<<: 3\n", b"<<: [1, 2]\n", b"<<: &a {<<: *a}\n",
    b"&a [*a]\n", b"a: &a [*a]\n", b"a: &a {b: *a}\n", b"base_model: &a {<<: *a, b: 1}\n",
    b"datasets: &a [*a]\n", b"key: '" + b"x" * 9_000_000, b"key: \"" + b"x" * 9_000_000 + b"\"\n",
    b"base_model: " + b"x" * 9_000_000, b"x" * 1_000_000 + b": 1\n", b"datasets:\n" + b"- a\n" * 60_000,
    b"datasets: [" + b"{path: a}, " * 20_000 + b"]\n", b"special_tokens: {" + b"a: b, " * 5_000 + b"}\n",
    b"".join(b"k%d: 1\n" % i for i in range(9_000)), b"\r" * 1000, b"a: 1\r" * 10, b"\t\n\t: \t\n",
    b"null\n", b"~: ~\n", b"1: 2\n", b"true: false\n", b"'': ''\n", b"!!python/name:os.system x: 1\n",
    b"a: " + b"1" * 1_000_000 + b"\n", b"learning_rate: 1e" + b"9" * 100_000 + b"\n",
    b"a:\n" + b"".join(b" " * i + b"b:\n" for i in range(1, 3000)),
    b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10))
                               for i in range(1, 9)),
    b"a0: &a0 {x: 1}\n" + b"".join(b"a%d: &a%d {<<: [%s]}\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10))
                                  for i in range(1, 9)),
]  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What became of a file."""

    fault: str
    """What `ft` did wrong; empty if nothing."""
    is_refused: bool
    cpu_s: float
    messages: tuple[str, ...] = ()


def real_configs() -> list[str]:
    """What the mutations begin with."""
    files = [ROOT / "configs/sql.yml", ROOT / "tests/fixtures/sql.yml"]
    files += sorted((ROOT / "examples").glob("*/*.y*ml"))
    return [*(file.read_text(encoding="utf-8") for file in files), _CHAT]


def wrong_config(number: int) -> bytes:
    """The bytes of one file."""
    if number < len(_WHOLE):
        return _WHOLE[number]
    draw = random.Random(number)
    text = draw.choice(real_configs())
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        text = draw.choice(_OF_TEXT)(text, draw)
    content = text.encode("utf-8", "surrogatepass")
    return draw.choice(_OF_BYTES)(content, draw) if draw.random() < 0.2 else content


# -- what can happen to a text ----------------------------------------------------------------


def _at_a_line(change: Callable[[str, random.Random], str]) -> Callable[[str, random.Random], str]:
    def mutated(text: str, draw: random.Random) -> str:
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        lines[at] = change(lines[at], draw)
        return "\n".join(lines)

    return mutated


def _with_value(line: str, draw: random.Random) -> str:
    key, colon, _ = line.partition(":")
    return f"{key}: {draw.choice(_WORDS)}" if colon else f"{line}: {draw.choice(_WORDS)}"


def _with_slip(line: str, draw: random.Random) -> str:
    if not line:
        return draw.choice(string.printable)
    at = draw.randrange(len(line))
    kept, letter = line[at + 1 :], draw.choice(string.printable)
    return line[:at] + draw.choice([kept, line[at] * 2 + kept, letter + kept, letter + line[at:]])


def _duplicated(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return "\n".join(lines)


def _swapped(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return "\n".join(lines)


def _nested(text: str, draw: random.Random) -> str:
    key = draw.choice(re.findall(r"^\w+", text, re.M) or ["a"])
    depth = draw.choice([2, 30, 500, 5000])
    opening, closing = draw.choice([("[", "]"), ("{a: ", "}"), ("[{b: ", "}]")])
    return f"{text}\n{key}: {opening * depth}x{closing * draw.choice([depth, depth - 1])}\n"


def _with_key(text: str, draw: random.Random) -> str:
    known = ["base_model", "datasets", "learning_rate", "adapter", "special_tokens", "tokens", "fsdp",
             "deepspeed", "plugins", "batch_size", "bnb_config_kwargs", "lora_target_modules", "rl",
             "chat_template", "val_set_size", "output_dir", "trust_remote_code", "model_config",
             "lr_scheduler", "optimizer", "fsdp_config", "accelerator_config", "test_datasets",
             "message_field_role", "xformers_attention", "evals_per_epoch", "dataset_prepared_path",
             "attn_implementation", "unfrozen_parameters", "max_memory", "hf_token", "wandb_api_key"]  # fmt: skip
    return f"{draw.choice(known)}: {draw.choice(_WORDS)}\n{text}"


def _as_dataset_key(text: str, draw: random.Random) -> str:
    key = draw.choice(["path", "type", "split", "roles", "data_files", "field", "ds_type", "name",
                       "chat_template", "message_property_mappings", "shards", "train_on_split"])  # fmt: skip
    return f"{text}\ndatasets:\n  - path: data.jsonl\n    {key}: {draw.choice(_WORDS)}\n"


def _aliased(text: str, draw: random.Random) -> str:
    keys = re.findall(r"^(\w+):", text, re.M) or ["a"]
    one, other = draw.choice(keys), draw.choice(keys)
    text = re.sub(rf"^{one}:", f"{one}: &x", text, count=1, flags=re.M)
    return re.sub(rf"^{other}:.*", f"{other}: *x", text, count=1, flags=re.M)


_OF_TEXT: list[Callable[[str, random.Random], str]] = [
    _at_a_line(_with_value),
    _at_a_line(_with_value),
    _at_a_line(_with_slip),
    _at_a_line(_with_slip),
    _at_a_line(lambda line, draw: ""),
    _at_a_line(lambda line, draw: draw.choice(["\t", " ", "   ", "- "]) + line),
    _at_a_line(lambda line, draw: line.lstrip()),
    _at_a_line(lambda line, draw: line.upper()),
    _at_a_line(lambda line, draw: line.replace(":", draw.choice(["", " :", "::", "=", ":  - "]))),
    _at_a_line(lambda line, draw: line + draw.choice(_WORDS)),
    _duplicated,
    _swapped,
    _nested,
    _with_key,
    _with_key,
    _as_dataset_key,
    _aliased,
    lambda text, draw: text[: draw.randrange(len(text) + 1)],
    lambda text, draw: text.replace("\n", draw.choice(["\r\n", "\r", "\x85", "\u2028", "\n\n"])),
    lambda text, draw: text.replace(" ", draw.choice(["\t", "\u00a0", "\u3000", ""]), 3),
]  # fmt: skip


def _with_byte(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + bytes([draw.randrange(256)]) + content[at + draw.randrange(2) :]


_OF_BYTES: list[Callable[[bytes, random.Random], bytes]] = [
    _with_byte,
    _with_byte,
    lambda content, draw: b"\xef\xbb\xbf" + content,
    lambda content, draw: content.decode("utf-8", "replace").encode("utf-16"),
    lambda content, draw: content.decode("utf-8", "replace").encode("latin-1", "replace") + b"\xe9",
    lambda content, draw: content.replace(b"\n", b"\x00\n", 1),
]


# -- the trial --------------------------------------------------------------------------------


def try_config(content: bytes, path: Path) -> Verdict:
    """Writes the file, reads it as `ft validate` does, and judges what came of it."""
    path.write_bytes(content)
    started = time.process_time()
    messages: tuple[str, ...] = ()
    fault, is_refused = "", False
    signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(HANG_S)
    try:
        check_inputs(load_spec(path))
    except UserError as error:
        is_refused = True
        messages = tuple(problem.render() for problem in error.problems)
        places = [problem.where for problem in error.problems]
        fault = _fault_of_words(messages) or _fault_of_places(places, path, content)
    except BaseException as error:  # noqa: BLE001 - finding these is what this is for
        fault = f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
    cpu_s = time.process_time() - started
    if not fault and cpu_s > LIMIT_S:
        fault = f"took {cpu_s:.1f} s"
    return Verdict(fault, is_refused, cpu_s, messages)


class _HangError(BaseException):
    """Passes through everything that catches an `Exception`."""


def _hangs(*_: object) -> None:
    raise _HangError(f"still at work after {HANG_S} s")


def _fault_of_words(messages: tuple[str, ...]) -> str:
    text = "\n".join(messages)
    if not text.strip():
        return "refused without a word"
    if len(text) > LONGEST_MESSAGE:
        return f"says {len(text):,} characters"
    if re.search(r"object at 0x|<class|pydantic|yaml\.(org|scanner|parser)|tag:yaml", text):
        return f"speaks to a programmer: {text[:300]}"
    return ""


def _fault_of_places(places: list[str], path: Path, content: bytes) -> str:
    lines = content.decode("utf-8-sig", "replace").splitlines() or [""]
    for place in places:
        if match := re.fullmatch(rf"{re.escape(str(path))}:(\d+):(\d+)", place):
            line, column = int(match[1]), int(match[2])
            # Behind the last line is a place, too: something is missing there.
            if not 1 <= line <= len(lines) + 1:
                return f"line {line} of {len(lines)}"
            length = len(lines[line - 1]) if line <= len(lines) else 0
            if not 1 <= column <= length + 1:
                return f"column {column} of {length} in line {line}"
        elif not place.startswith(str(path)):
            return f"no place: {place!r}"
    return ""


def prepare_folder(folder: Path) -> Path:
    """What the configs name is there, so that they fail by themselves only.

    Returns:
        Where the config is to be written.
    """
    (folder / "data.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    (folder / "model").mkdir()
    return folder / "c.yml"


def main(count: int) -> int:
    """Tries so many files.

    Returns:
        How many went wrong.
    """
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        path = prepare_folder(Path(name))
        for number in range(count):
            verdict = try_config(wrong_config(number), path)
            outcomes["wrong" if verdict.fault else "refused" if verdict.is_refused else "read"] += 1
            slowest = max(slowest, verdict.cpu_s)
            if verdict.fault:
                print(f"{number}: {verdict.fault}")  # noqa: T201 - a command
    print(f"{dict(outcomes)}, the slowest took {slowest:.2f} s")  # noqa: T201
    return outcomes["wrong"]


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000) else 0)

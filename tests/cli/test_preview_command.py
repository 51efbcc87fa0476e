"""`ft preview` as a user types it, and what it looks like."""

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml
from rich.console import Console

import tiny
from ft.cli.preview_page import page
from ft.cli.preview_text import Screen, render_preview
from ft.cli.visible import ASCII, UNICODE, marks_for, one_line, visible
from ft.data.preview import preview_data
from ft.spec import DatasetSpec, DataSpec, TrainingSpec

HOSTILE = "<script>alert(1)</script> \x1b[31mred \u202eback\u2028 [bold]x[/bold] </pre>&amp;"


def ft(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ft", *map(str, arguments)],
        cwd=cwd, capture_output=True, encoding="utf-8", timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A config, its records, and a base of which only the tokenizer is there."""
    folder = tmp_path_factory.mktemp("project")
    tiny.chatml_tokenizer().save_pretrained(folder / "base")
    records = [
        {"context": f"CREATE TABLE t{i}", "question": "How many?", "answer": f"SELECT {i}"}
        for i in range(20)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    chats = [
        {"messages": [{"role": "user", "content": "a"}]},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]},
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)) + "\n")
    config = {
        "base_model": "./base",
        "adapter": "lora",
        "lora_target_linear": True,
        "datasets": [{"path": "data.jsonl", "type": "context_qa.load_v2"}],
        "sequence_len": 256,
        "learning_rate": 1e-3,
        "dataset_prepared_path": str(folder / "prepared"),
    }
    (folder / "run.yml").write_text(yaml.safe_dump(config))
    return folder


# -- the command ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(project):
    return ft(
        "preview", "run.yml", "--num-records", 2, "--ids", "--sequence-len", 128,
        "--html", "p.html", "--dump", "d.jsonl", cwd=project,
    )  # fmt: skip


def test_a_preview_in_a_pipe(shown):
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout, "no terminal, no escape codes"
    assert "│ Context: CREATE TABLE t0↵" in shown.stdout
    assert "⟦Answer: SELECT 0<|im_end|>⟧" in shown.stdout
    assert "data.jsonl:2" in shown.stdout
    assert "data.jsonl:3" not in shown.stdout
    assert re.search(r"ids: .*⟦\d+:\S+ .*\d+:<\|im_end\|>⟧", shown.stdout)
    assert "sequence_len 128" in shown.stdout
    assert "20 of 20 records" in shown.stdout
    assert "20 an epoch of 1 row each" in shown.stdout
    assert not shown.stderr


def test_a_page_and_a_dump(project, shown):
    assert "written to p.html" in shown.stdout
    assert "CREATE TABLE t0" in (project / "p.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (project / "d.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(20))
    assert set(rows[0]) == {"dataset", "row", "input_ids", "labels"}
    assert rows[0]["dataset"] == "data.jsonl"
    assert rows[0]["labels"][0] == -100
    assert rows[0]["labels"][-1] == rows[0]["input_ids"][-1]
    assert not list(project.glob(".tmp-*"))


def test_color_in_a_terminal(project):
    colored = ft("preview", "run.yml", cwd=project, FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[1;32m" in colored.stdout
    assert "⟦" not in colored.stdout


def test_refused_data_is_shown_and_exits_2(project):
    arguments = ("--datasets.0.path", "chats.jsonl", "--datasets.0.type", "chat_template")
    refused = ft("preview", "run.yml", *arguments, cwd=project)
    assert refused.returncode == 2
    assert "⟦c<|im_end|>⟧" in refused.stdout
    assert "1 of 2 records (50.0%) can't be used" in refused.stderr
    assert "chats.jsonl:1" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_labels_are_shown_by_name_with_their_counts(tmp_path):
    labels = ["negative"] * 3 + ["positive"] * 5
    lines = [json.dumps({"text": f"a head {i}", "label": x}) for i, x in enumerate(labels)]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n")
    entry = DatasetSpec(path="d.jsonl", type="classification")
    names = ("negative", "positive", "<b>never</b>")
    data = DataSpec(datasets=(entry,), task_type="SEQ_CLS", id2label=names)
    preview = preview_data(
        data, TrainingSpec(learning_rate=1e-3), tokenizer=tiny.wordpiece_tokenizer(),
        base_dir=tmp_path,
    )  # fmt: skip
    said = "\n".join(lines_on(preview))
    assert "trained" not in said
    assert "packing" not in said
    assert re.search(r"d\.jsonl:1  \d+ tokens, label negative", said)
    assert re.search(r"negative  +3   38%  █+\S?\n", said)
    assert re.search(r"positive  +5   62%  █+\S?\n", said)
    assert re.search(r"<b>never</b>  +0    0%", said)
    html = page(preview, "run.yml", shows_ids=False)
    assert 'label <span class="trained">negative</span>' in html
    assert '<td class="number bad">&lt;b&gt;never&lt;/b&gt;</td>' in html
    assert "are trained" not in html
    assert "sample_packing" not in html


def test_no_torch_and_no_weights(project):
    code = (
        "import sys\n"
        "from ft.cli.app import app\n"
        "app(['preview', 'run.yml'], standalone_mode=False)\n"
        "heavy = {'torch', 'peft', 'datasets', 'accelerate', 'bitsandbytes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list((project / "base").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none.yml",), "no such file"),
        (("run.yml", "--base-model", "./none"), "no such folder"),
        (("run.yml", "--datasets.0.path", "dta.jsonl"), "data.jsonl"),
        (("run.yml", "--dump", "data.jsonl"), "--dump: data.jsonl would be overwritten"),
        (("run.yml", "--html", "run.yml"), "--html: run.yml would be overwritten"),
        (("run.yml", "--html", "a", "--dump", "a"), "--dump: a would be overwritten"),
        (("run.yml", "--html", "none/p.html"), "there is no folder"),
        (("run.yml", "--dump", "base"), "is a folder"),
        (("run.yml", "--seqence-len", "8"), "sequence_len"),
    ],
)
def test_wrong_input_exits_2(project, arguments, says):
    before = {path.name: path.read_bytes() for path in project.glob("*.*l")}
    failed = ft("preview", *arguments, cwd=project)
    assert failed.returncode == 2
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr
    assert before == {path.name: path.read_bytes() for path in project.glob("*.*l")}


# -- how it looks -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A preview of records that would like to be more than text."""
    folder = tmp_path_factory.mktemp("hostile")
    records = [{"context": HOSTILE, "question": f"\t{HOSTILE}  ", "answer": HOSTILE * 9}]
    records += [{"context": HOSTILE, HOSTILE: 1}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    sets = (DatasetSpec(path="a.jsonl", type="context_qa.load_v2"),)
    training = TrainingSpec(learning_rate=1e-4)
    data = DataSpec(datasets=sets, sequence_len=4096)
    return preview_data(data, training, tokenizer=tiny.chatml_tokenizer(), base_dir=folder)


def lines_on(preview, *, width=80, **console):
    """A preview's lines on a screen of this width."""
    terminal = Console(file=io.StringIO(), width=width, highlight=False, **console)
    has_color = terminal.color_system is not None
    screen = Screen(terminal, UNICODE, has_color, width)
    return "".join(render_preview(preview, screen, shows_ids=True)).splitlines()


@pytest.mark.parametrize("name", ["NO_COLOR", "a pipe"])
def test_brackets_where_there_is_no_color(hostile, monkeypatch, name):
    monkeypatch.setenv("FORCE_COLOR", "1" if name == "NO_COLOR" else "")
    monkeypatch.setenv("NO_COLOR", "1" if name == "NO_COLOR" else "")
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen.of_output()
    text = "".join(render_preview(hostile, screen, shows_ids=False))
    assert "\x1b" not in text
    assert screen.marks.opening in text


def test_an_ascii_terminal(hostile):
    ascii_only = Console(file=io.TextIOWrapper(io.BytesIO(), "ascii"), color_system=None)
    screen = Screen(ascii_only, marks_for(ascii_only.encoding), False, None)
    text = "".join(render_preview(hostile, screen, shows_ids=True))
    assert text.isascii()
    assert "[[" in text
    assert "###" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_screen(hostile, width):
    lines = lines_on(hostile, width=width, color_system=None)
    records = [line for line in lines if line.startswith("  │")]
    assert records
    assert max(map(len, records)) <= width


def test_records_can_not_steer_the_terminal(hostile):
    colored = "\n".join(lines_on(hostile, force_terminal=True, color_system="truecolor"))
    codes = re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", colored)
    assert colored.count("\x1b") == len(codes)
    assert "\x1b[31mred" not in colored, "the record's own color"
    assert "\\x1b[31mred" in colored.replace("\n  │ ", "")
    assert not set(colored) & set("\u202e\u2028\t\r")
    assert "[bold]x[/bold]" in re.sub(r"\x1b\[[\d;]*m|\n", "", colored), "no markup of rich's"


class Tags(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], set(), "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("title", ["run.yml", HOSTILE])
def test_a_page_runs_and_fetches_nothing(hostile, title):
    html = page(hostile, title, shows_ids=True)
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert not tags.open, "every tag is closed"
    assert not {"script", "img", "link", "iframe", "object"} & set(tags.tags)
    assert not {"src", "href", "onload", "onerror"} & tags.attributes
    assert "<script>alert(1)</script>" in tags.text, "as text"
    assert "default-src 'none'" in html
    assert "http" not in html.replace("http-equiv", "")
    assert not set(html) & set("\u202e\u2028\x1b")
    for part in ("trained", "can't be used", "sequence_len"):
        assert part in tags.text


# -- what can be shown ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a↵\nb"),
        (" a ", "·a·"),
        ("a  \n b", "a··↵\n b"),
        ("a\tb", "a→b"),
        ("\x1b[2J\x00\x9b", "\\x1b[2J\\x00\\x9b"),
        ("\u202e\u2066", "<U+202E><U+2066>"),
        ("é 漢 👩\u200d🔬", "é 漢 👩\u200d🔬"),
        ("\ud83d", "<U+D83D>"),
        ("", ""),
    ],
)
def test_white_space_is_seen_and_controls_are_not_sent(text, shown):
    assert visible(text, UNICODE) == shown


def test_marks_follow_the_encoding():
    assert marks_for("utf-8") is UNICODE
    assert marks_for("ascii") is marks_for("latin-1") is ASCII
    assert ASCII.all().isascii()
    assert one_line("a\nb" + "c" * 90, ASCII, 10) == "a\\nbccc..."

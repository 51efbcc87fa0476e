"""What the documents say is true: their YAML loads, their commands exist, their files are there."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from ft.cli.app import app
from ft.data.strategy import check_strategy
from ft.spec import load_spec
from ft.spec.runspec import DatasetSpec, sections_of_keys
from ft.spec.schema import json_schema

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yml")), ids=lambda p: p.name)
def test_every_config_loads_and_names_the_command_that_runs_it(config):
    loaded = load_spec(config)
    assert not loaded.notices, "a config of ours uses today's names and no idle keys"
    assert f"ft train configs/{config.name}" in config.read_text()
    for entry in loaded.spec.data.datasets:
        check_strategy(entry, config.parent)


def test_the_schema_that_editors_read_is_today_s():
    written = json.loads((ROOT / "docs" / "ft.schema.json").read_text("utf-8"))
    assert written == json_schema(), "run: ft schema > docs/ft.schema.json"


@pytest.mark.parametrize(
    "config",
    sorted([*(ROOT / "configs").glob("*.yml"), *(ROOT / "examples").rglob("*.yml")]),
    ids=lambda path: path.name,
)
def test_yaml_files_of_ours_point_editors_to_the_schema(config):
    first_line = config.read_text("utf-8").partition("\n")[0]
    target = first_line.removeprefix("# yaml-language-server: $schema=")
    assert (config.parent / target).resolve() == ROOT / "docs" / "ft.schema.json"


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_in_the_readme_loads(text, tmp_path):
    (tmp_path / "readme.yml").write_text(text)
    load_spec(tmp_path / "readme.yml")


def test_commands_in_the_readme_exist_with_their_options():
    commands = get_command(app).commands
    lines = [line for block in [*blocks("bash"), *blocks("")] for line in block.splitlines()]
    typed = [part.strip() for line in lines for part in line.removeprefix("$ ").split("&&")]
    found = [shlex.split(text, comments=True) for text in typed if text.startswith("ft ")]
    assert {name for _, name, *_ in found} == {"train", "merge", "infer", "preview"}
    for _, name, *arguments in found:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        for argument in arguments:
            if argument.startswith("--") and argument not in options:
                key = argument.removeprefix("--").split(".")[0].split("=")[0].replace("-", "_")
                assert key in sections_of_keys(), f"ft {name} has no {argument}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_named_files_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(
        r"`((?:src|tests|docs|configs|benchmarks|prompt_strategies)/[\w./-]+)`", text
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "file", sorted((ROOT / "prompt_strategies").glob("*.py")), ids=lambda p: p.name
)
def test_example_strategies_are_found(file):
    check_strategy(DatasetSpec(path="x", type=f"./{file.name}"), file.parent)

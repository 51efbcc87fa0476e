"""A finished run of which a file is damaged: `ft infer`, `ft merge` and `ft eval` say which one."""

import json
import re
import shutil

import pytest

import runs
from ft.cli import main
from ft.runtime import read_events


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_llama):
    folder = tmp_path_factory.mktemp("finished")
    runs.run(runs.write_config(folder, tiny_llama, num_records=12, val_set_size=2, max_steps=1))
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert left.value.code == 2, error
    assert "Traceback" not in error
    return error


def changed(**values):
    """A change of a JSON file's keys; None takes a key away."""

    def change(path):
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(content):
    return lambda path: path.write_bytes(content)


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    ("run.json", cut),
    ("run.json", overwritten(b"")),
    ("run.json", overwritten(b"\xff\xfe")),
    ("run.json", overwritten(b"[]")),
    ("run.json", overwritten(b"[" * 100_000)),
    ("run.json", as_folder),
    ("run.json", changed(format=99)),
    ("run.json", changed(format="1")),
    ("run.json", changed(config=7)),
    ("run.json", changed(data=[])),
    ("run.json", changed(probe_input_ids=[["a"]])),
    ("run.json", changed(finished=None)),
    ("prompt.json", cut),
    ("prompt.json", overwritten(b"")),
    ("prompt.json", overwritten(b"null")),
    ("prompt.json", as_folder),
    ("prompt.json", changed(format=99)),
    ("prompt.json", changed(layouts=None)),
    ("prompt.json", changed(layouts=[])),
    ("prompt.json", changed(layouts=[7])),
    ("prompt.json", changed(layouts=[{"version": 99}])),
    ("prompt.json", changed(layouts=[{"version": 1}])),
    ("resolved.yml", overwritten(b"")),
    ("resolved.yml", overwritten(b"base_model: [")),
    ("resolved.yml", overwritten(b"unknown: 1\n")),
    ("resolved.yml", lambda path: path.unlink()),
    ("adapter_config.json", cut),
    ("adapter_config.json", overwritten(b"")),
    ("adapter_config.json", overwritten(b"[]")),
    ("adapter_config.json", changed(peft_type="NOTHING")),
    ("adapter_config.json", changed(peft_type=None)),
    ("adapter_config.json", changed(r="many")),
    ("adapter_config.json", changed(r=-1)),
    ("adapter_config.json", changed(target_modules=7)),
    ("adapter_config.json", changed(target_modules=["nothing_of_this_name"])),
    ("adapter_model.safetensors", cut),
    ("adapter_model.safetensors", overwritten(b"")),
    ("tokenizer.json", cut),
    ("tokenizer.json", overwritten(b"{}")),
    ("tokenizer_config.json", overwritten(b"[]")),
    ("tokenizer_config.json", cut),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage"), DAMAGES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(DAMAGES)]
)
def test_a_damaged_file_is_named(name, damage, out, capsys):
    damage(out / name)
    error = said(capsys, "infer", out, "--prompt", "How many?", "--field", "context=t",
                 "--max-new-tokens", "1")  # fmt: skip
    known_by = name if name.endswith((".yml", "run.json", "prompt.json")) else str(out)
    assert known_by in error


@pytest.mark.parametrize("command", ["merge", "eval"])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("run.json", cut),
        ("run.json", changed(format=2)),
        ("prompt.json", cut),
        ("adapter_config.json", overwritten(b"{")),
    ],
)
def test_the_other_commands_say_it_too(command, name, damage, out, capsys):
    damage(out / name)
    assert str(out / name) in said(capsys, command, out)


@pytest.mark.parametrize("probes", [[], [[10**6]]])
def test_a_merge_without_probes_that_prove_it_is_refused(probes, out, capsys):
    changed(probe_input_ids=probes)(out / "run.json")
    assert "run.json" in said(capsys, "merge", out)


def test_a_damaged_adapter_to_go_on_from(out, tmp_path, tiny_llama, capsys):
    (out / "adapter_config.json").write_text('{"peft_type": "LORA",')
    config = runs.write_config(tmp_path, tiny_llama, lora_model_dir=str(out), output_dir="new")
    error = said(capsys, "train", config)
    assert re.search(r"run\.yml:\d+:\d+: .*adapter_config\.json:1: is damaged", error), error


def test_a_broken_run_does_not_hide_a_whole_one(out, capsys, monkeypatch):
    broken = out.parent / "broken"
    shutil.copytree(out, broken)
    (broken / "run.json").write_text("{")
    monkeypatch.chdir(out.parent)
    with pytest.raises(SystemExit) as left:
        main(["infer", "--prompt", "a", "--field", "context=t", "--max-new-tokens", "1"])
    assert left.value.code == 0
    assert "using out" in capsys.readouterr().err


def test_train_over_a_broken_run_asks_and_then_starts_anew(finished, tmp_path, capsys):
    folder = shutil.copytree(finished.parent, tmp_path / "again")
    config = folder / "run.yml"
    (folder / "out/run.json").write_text("{")
    arguments = [
        "train",
        config,
        "--output-dir",
        folder / "out",
        "--datasets.0.path",
        folder / "data.jsonl",
    ]
    assert "run.json" in said(capsys, *arguments)


def test_events_that_are_none_are_passed_over(out):
    with (out / "events.jsonl").open("a") as file:
        file.write(
            '7\n[]\nnull\n{"event": "resumed"}\n{"eve\n' + "9" * 5000 + "\n" + "[" * 100_000 + "\n"
        )
    assert [event["event"] for event in read_events(out / "events.jsonl")][-1] == "resumed"

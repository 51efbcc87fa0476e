"""events.jsonl: append-only, always valid JSON, each step told once to a reader."""

import json

from ft.runtime import EventLog, read_events


def test_lines_are_json_and_nan_is_no_number(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.append("step", step=1, loss=float("nan"))
    log.append("step", step=2, loss=0.5)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == ["nan", 0.5]


def test_a_resumed_run_tells_each_step_once(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for step in (1, 2, 3):
        log.append("step", step=step, loss=float(step))
    log.close()
    with path.open("a") as file:
        file.write('{"event": "step", "st')  # killed in the middle of a line
    log = EventLog(path)
    log.append("resumed", step=2)
    log.append("step", step=3, loss=3.5)
    log.close()
    steps = [(e["step"], e["loss"]) for e in read_events(path) if e["event"] == "step"]
    assert steps == [(1, 1.0), (2, 2.0), (3, 3.5)]


def test_a_run_killed_before_its_first_checkpoint_tells_each_step_once(tmp_path):
    """It begins anew, with the evaluation of the base."""
    log = EventLog(tmp_path / "events.jsonl")
    for loss in (1.0, 1.5):
        log.append("start", step=0)
        log.append("evaluation", step=0, eval_loss=loss)
        log.append("step", step=1, loss=loss)
    log.close()
    told = [(e["event"], e.get("loss")) for e in read_events(tmp_path / "events.jsonl")]
    assert told == [("start", None), ("start", None), ("evaluation", None), ("step", 1.5)]


def test_no_file_no_events(tmp_path):
    assert read_events(tmp_path / "none.jsonl") == []

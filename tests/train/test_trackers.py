"""Trackers get a run's metrics; whatever they do, the run goes on, and no secret reaches them."""

import json
import socket
import time
from importlib.util import find_spec

import pytest
import yaml

from ft.runtime import Interrupted, RunDirectory
from ft.spec import load_spec
from ft.train import trackers as of_run
from ft.train.trackers import RunTrackers, metrics_of, tracked_config
from runs import curve, events, run, stop_after, write_config

CANARY = "canary-c0ffee-0123456789abcdef"
pytestmark = pytest.mark.filterwarnings("default")  # libraries of others, in threads of their own


def needs(package):
    why = f"{package} is not installed: pip install 'ft[{package}]'"
    return pytest.mark.skipif(find_spec(package) is None, reason=why)


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Secrets where a tracker could find them, and no way to the user's own folders."""
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, CANARY)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "TRACKIO_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def spec_of(folder, **keys):
    (folder / "c.yml").write_text(
        yaml.safe_dump(
            {"base_model": "m", "datasets": ["d.jsonl"], "learning_rate": 1e-4}
            | {"output_dir": str(folder / "out")}
            | keys
        )
    )
    return load_spec(folder / "c.yml").spec


def told(out):
    return [event["text"] for event in events(out, "tracker")]


def bytes_below(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# -- who is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({}, ()),
        ({"wandb_entity": "us", "wandb_name": "one", "mlflow_run_name": "one"}, ()),
        ({"wandb_project": None}, ()),
        ({"wandb_project": ""}, ()),
        ({"wandb_project": "mine"}, ("wandb",)),
        ({"wandb_project": "mine", "use_wandb": False}, ()),
        ({"wandb_project": "mine", "wandb_mode": "disabled"}, ()),
        ({"use_wandb": True}, ("wandb",)),
        ({"mlflow_experiment_name": "e"}, ("mlflow",)),
        ({"use_tensorboard": True, "trackio_project_name": "p"}, ("tensorboard", "trackio")),
        ({"comet_project_name": "p", "swanlab_project": "p"}, ("comet_ml", "swanlab")),
        ({"report_to": "tensorboard"}, ("tensorboard",)),
        ({"report_to": ["aim", "wandb"], "use_wandb": False}, ("aim",)),
        ({"report_to": "none"}, ()),
    ],
)
def test_a_tracker_is_on_only_if_it_is_asked_for(tmp_path, keys, names):
    assert spec_of(tmp_path, **keys).trackers.asked == names


def test_keys_of_a_tracker_that_nothing_asks_for_are_told_of(tmp_path):
    spec_of(tmp_path, wandb_entity="us", wandb_name="one", mlflow_run_name="", use_comet=False,
            comet_workspace="w", report_to="swanlab", swanlab_mode="local")  # fmt: skip
    notices = load_spec(tmp_path / "c.yml").notices
    assert notices == ("no effect without use_wandb: true: wandb_entity, wandb_name",)


def test_without_one_nothing_is_written(tmp_path):
    said = []
    RunTrackers(spec_of(tmp_path), tmp_path / "trackers", said.append).close()
    assert said == []
    assert not (tmp_path / "trackers").exists()


# -- what is sent -------------------------------------------------------------------------------


def test_the_config_is_sent_without_secrets_and_without_places(tmp_path):
    spec = spec_of(tmp_path, datasets=[{"path": "/secret/place/d.jsonl"}], wandb_entity="us")
    revision = f"https://me:{CANARY}@host/x"
    model = spec.model.model_copy(
        update={"base_model": "/home/me/models/llama", "revision_of_model": revision}
    )
    config = tracked_config(spec.model_copy(update={"model": model}))
    text = json.dumps(config)
    assert CANARY not in text
    assert str(tmp_path) not in text
    assert "/secret/place" not in text
    assert config["base_model"] == "llama"
    assert config["learning_rate"] == 1e-4
    assert json.loads(config["datasets"])[0]["path"] == "d.jsonl"
    assert "wandb_entity" not in config
    assert all(isinstance(value, str | int | float | bool) for value in config.values())


def test_metrics_have_the_names_of_transformers_integrations():
    step = {"event": "step", "time": 1.0, "step": 3, "num_steps": 9, "loss": 0.5, "epoch": 0.1}
    step |= {"learning_rate": 1e-4, "grad_norm": "nan", "was_skipped": False, "tokens_per_s": 7.0}
    assert metrics_of(step) == {
        "train/loss": 0.5,
        "train/epoch": 0.1,
        "train/learning_rate": 1e-4,
        "train/tokens_per_second": 7.0,
    }
    assert metrics_of({"event": "evaluation", "step": 3, "eval_loss": 0.4}) == {"eval/loss": 0.4}
    assert metrics_of({"event": "checkpoint", "step": 3, "save_time_s": 0.4}) == {}


# -- whatever they do ---------------------------------------------------------------------------


class Kept:
    """A tracker that keeps what it gets."""

    def __init__(self, fails_at=None, hangs_at=None):
        self.fails_at, self.hangs_at = fails_at, hangs_at
        self.values, self.config, self.is_finished = [], None, False

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None):
        if step == self.fails_at:
            raise ConnectionError(f"no route to https://me:{CANARY}@host")
        if step == self.hangs_at:
            time.sleep(3600)
        self.values.append((step, values))

    def finish(self):
        self.is_finished = True


def step(number):
    return {"event": "step", "step": number, "loss": 1.0 / number}


def tracked(tmp_path, tracker, num_steps=5, patience_s=20.0):
    said = []
    spec = spec_of(tmp_path, report_to=["tensorboard", "wandb"], wandb_project="p")
    kept = Kept()
    builders = {"tensorboard": lambda place: kept, "wandb": lambda place: tracker}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of_run, "find_spec", lambda name: True)
        trackers = RunTrackers(
            spec, tmp_path / "trackers", said.append, builders=builders, patience_s=patience_s
        )
    started = time.monotonic()
    for number in range(1, num_steps + 1):
        trackers.hear(step(number))
    stall_s = time.monotonic() - started
    trackers.close()
    assert kept.is_finished
    assert [number for number, _ in kept.values] == list(range(1, num_steps + 1))
    assert kept.config["learning_rate"] == 1e-4
    return said, stall_s


def test_one_that_raises_is_told_once_and_left_out(tmp_path):
    said, _ = tracked(tmp_path, Kept(fails_at=2))
    assert said[0] == "tracking with tensorboard, wandb"
    assert len(said) == 2
    assert "wandb is switched off, the run goes on without it: ConnectionError: no route" in said[1]
    assert CANARY not in said[1]


def test_one_that_hangs_delays_no_step_and_is_left_behind(tmp_path):
    started = time.monotonic()
    said, stall_s = tracked(tmp_path, Kept(hangs_at=2), patience_s=0.5)
    assert stall_s < 0.4
    assert time.monotonic() - started < 5
    assert "has not answered" in said[1]


def test_one_that_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(of_run, "find_spec", lambda name: None)
    said = []
    RunTrackers(spec_of(tmp_path, report_to="wandb"), tmp_path / "t", said.append).close()
    assert said == ["wandb is left out: it is not installed; pip install 'ft[wandb]'"]


@pytest.fixture
def silent_server():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@needs("mlflow")
def test_a_server_that_never_answers_stops_no_run(tmp_path, tiny_llama, silent_server, monkeypatch):
    monkeypatch.setattr(of_run, "PATIENCE_S", 1.0)
    config = write_config(
        tmp_path, tiny_llama, max_steps=2, mlflow_experiment_name="e",
        mlflow_tracking_uri=silent_server, num_records=6,
    )  # fmt: skip
    run(config)
    assert "mlflow is switched off" in told(tmp_path / "out")[-1]
    assert len(curve(tmp_path / "out")) == 2


# -- for real -----------------------------------------------------------------------------------


@needs("tensorboard")
def test_tensorboard_holds_the_curve_and_a_resumed_run_goes_on_there(tmp_path, tiny_llama):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = write_config(
        tmp_path, tiny_llama, use_tensorboard=True, max_steps=4, num_records=12, val_set_size=2,
        eval_steps=2,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        run(config, on_event=stop_after(2))
    run(config)
    out = tmp_path / "out"
    folder = out / "trackers" / "tensorboard"
    read = EventAccumulator(str(folder)).Reload()
    losses = {each.step: each.value for each in read.Scalars("train/loss")}
    assert losses == pytest.approx({each[0]: each[1] for each in curve(out)})
    assert [each.step for each in read.Scalars("eval/loss")] == [0, 2, 4]
    assert told(out)[0] == "tracking with tensorboard"
    assert CANARY.encode() not in bytes_below(out)
    RunDirectory(out).clear()
    assert not folder.exists(), "a new run begins anew"


@needs("wandb")
def test_wandb_offline_keeps_the_run_and_nothing_of_the_machine(tmp_path, tiny_llama):
    import wandb

    config = write_config(
        tmp_path, tiny_llama, wandb_project="mine", wandb_mode="offline", max_steps=2,
        num_records=6,
    )  # fmt: skip
    run(config)
    out = tmp_path / "out"
    assert told(out) == ["tracking with wandb"]
    (kept,) = (out / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    wandb.teardown()  # its service writes on after the run; a process waits for it at its end
    data = kept.read_bytes()
    ids = json.loads((out / "trackers" / "ids.json").read_text())
    assert ids["run"].encode() in data
    assert b"train/loss" in data
    everything = bytes_below(out / "trackers")
    assert CANARY.encode() not in everything
    assert str(tmp_path).encode() not in data
    assert not list(out.rglob("output.log")), "the console is not sent"


@needs("wandb")
def test_wandb_without_a_login_is_told_of(tmp_path):
    said = []
    spec = spec_of(tmp_path, wandb_project="mine", wandb_mode="online")
    RunTrackers(spec, tmp_path / "trackers", said.append).close()
    assert "not logged in: run `wandb login`, or set WANDB_API_KEY" in said[-1]


@needs("mlflow")
@pytest.mark.slow
def test_mlflow_holds_the_metrics_and_a_resumed_run_is_the_same_one(tmp_path, tiny_llama):
    import mlflow

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    config = write_config(
        tmp_path, tiny_llama, mlflow_experiment_name="e", mlflow_tracking_uri=store, max_steps=4,
        num_records=12,
    )  # fmt: skip
    with pytest.raises(Interrupted):
        run(config, on_event=stop_after(2))
    run(config)
    (found,) = mlflow.tracking.MlflowClient(store).search_runs(
        [mlflow.tracking.MlflowClient(store).get_experiment_by_name("e").experiment_id]
    )
    assert found.data.metrics["train/loss"] == pytest.approx(curve(tmp_path / "out")[-1][1])
    assert found.data.params["base_model"] == "chatml"
    assert str(tmp_path) not in json.dumps(found.data.params | found.data.tags)
    assert CANARY.encode() not in bytes_below(tmp_path)


@needs("trackio")
@pytest.mark.slow
def test_trackio_holds_the_metrics(tmp_path, tiny_llama):
    config = write_config(
        tmp_path, tiny_llama, trackio_project_name="mine", max_steps=2, num_records=6
    )
    run(config)
    assert told(tmp_path / "out") == ["tracking with trackio"]
    assert CANARY.encode() not in bytes_below(tmp_path / "home")

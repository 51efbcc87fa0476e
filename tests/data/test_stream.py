"""Records read as a stream: the same rows as of records that are read whole, a window at a time."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import datasets
import pytest

import tiny
from ft.cli.preview_figures import run_lines
from ft.data.prepare import prepare_data
from ft.data.preview import preview_data
from ft.data.sources import identify_stream, read_records
from ft.data.stream import prepare_stream
from ft.runtime.errors import UserError
from ft.spec import load_spec
from ft.spec.runspec import DatasetSpec, DataSpec, MappingLayout, TrainingSpec

LAYOUT = MappingLayout(field_instruction="q", field_output="a", no_input_format="{instruction}:")


def records(count, first=0):
    return [{"q": f"q{i}", "a": "a" * (1 + i % 7)} for i in range(first, first + count)]


def write(path: Path, rows) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.gpt2_tokenizer()


def spec_of(*files, **keys):
    sets = tuple(DatasetSpec(path=str(file), type=LAYOUT) for file in files)
    return DataSpec(datasets=sets, **{"sequence_len": 64, "streaming": True, **keys})


def prepare(tokenizer, *files, on_news=None, **keys):
    return prepare_stream(
        spec_of(*files, **keys), tokenizer=tokenizer, seed=7, base_dir=Path(), on_news=on_news
    )


def feed_of(prepared, num_processes=1, **keys):
    training = TrainingSpec(learning_rate=1e-3, **{"micro_batch_size": 4, "seed": 7, **keys})
    return prepared.feed(training, sequence_len=64, num_processes=num_processes)


def lines_of(rows):
    """The lines that a step's rows come from."""
    return [[record.origin.line for record in row] for row in rows]


def ids_of(rows):
    return [[record.input_ids.tolist() for record in row] for row in rows]


class TestOrder:
    def test_unshuffled_records_come_in_their_order_over_windows_and_sets(
        self, tmp_path, tokenizer
    ):
        one = write(tmp_path / "a.jsonl", records(9))
        two = write(tmp_path / "b.jsonl", records(4, first=9))
        keys = {"shuffle_merged_datasets": False, "streaming_multipack_buffer_size": 3}
        feed = feed_of(prepare(tokenizer, one, two, **keys))
        steps = [lines_of(feed.rows_of(step)) for step in range(5)]
        lines = [line for rows in steps for row in rows for line in row]
        assert lines == [*range(1, 10), *range(1, 5), 1, 2, 3, 4]
        assert [len(rows) for rows in steps] == [4, 4, 4, 1, 4], "no step mixes two passes"

    def test_shuffling_stays_within_a_window_and_differs_in_each_pass(self, tmp_path, tokenizer):
        path = write(tmp_path / "a.jsonl", records(16))
        feed = feed_of(prepare(tokenizer, path, streaming_multipack_buffer_size=8))
        steps = [lines_of(feed.rows_of(step)) for step in range(8)]
        windows = [[row[0] for row in steps[i] + steps[i + 1]] for i in range(0, 8, 2)]
        assert [sorted(each) for each in windows] == [list(range(1, 9)), list(range(9, 17))] * 2
        assert windows[0] != windows[2]
        assert windows[0] != sorted(windows[0])

    def test_packs_hold_every_record_once(self, tmp_path, tokenizer):
        path = write(tmp_path / "a.jsonl", records(60))
        prepared = prepare(tokenizer, path, streaming_multipack_buffer_size=20)
        feed = feed_of(prepared, sample_packing=True, micro_batch_size=2)
        rows, step = [], 0
        while not feed.epochs_after(step):
            rows.append(feed.rows_of(step))
            step += 1
        packs = [row for each in rows[:-1] for row in each]
        assert sorted(line for pack in lines_of(packs) for line in pack) == list(range(1, 61))
        assert all(sum(len(each.input_ids) for each in pack) <= 64 for pack in packs)
        assert len(packs) < 30

    def test_steps_do_not_depend_on_the_number_of_processes(self, tmp_path, tokenizer):
        path = write(tmp_path / "a.jsonl", records(11))
        keys = {"streaming_multipack_buffer_size": 5}
        one = feed_of(prepare(tokenizer, path, **keys), micro_batch_size=4)
        two = feed_of(prepare(tokenizer, path, **keys), num_processes=2, micro_batch_size=2)
        for step in range(6):
            assert ids_of(one.rows_of(step)) == ids_of(two.rows_of(step))

    @pytest.mark.parametrize("window", [1, 3, 1000, 1500, 10_000])
    def test_windows_are_as_large_as_was_asked_for(self, tmp_path, tokenizer, window):
        path = write(tmp_path / "a.jsonl", records(5))
        feed = feed_of(prepare(tokenizer, path, streaming_multipack_buffer_size=window))
        assert feed.figures()["window_size"] == window


class TestPosition:
    @pytest.mark.parametrize("keys", [{}, {"sample_packing": True}, {"group_by_length": True}])
    def test_any_step_goes_on_as_if_nothing_had_been(self, tmp_path, tokenizer, keys):
        """Through JSON, as a checkpoint holds it; over two sets, broken records and three passes."""
        bad = ["", "no JSON", json.dumps({"q": "no answer"})]
        one = write(tmp_path / "a.jsonl", [*records(13), *bad])
        two = write(tmp_path / "b.jsonl", [*bad, *records(6, first=13)])
        data = {"streaming_multipack_buffer_size": 5, "max_drop": 0.5}
        straight = feed_of(prepare(tokenizer, one, two, **data), **keys)
        steps, positions = [], []
        for step in range(15):
            steps.append(ids_of(straight.rows_of(step)))
            positions.append(json.loads(json.dumps(straight.position())))
        for stop, position in enumerate(positions[:-1]):
            resumed = feed_of(prepare(tokenizer, one, two, **data), **keys)
            resumed.go_to(position)
            assert ids_of(resumed.rows_of(stop + 1)) == steps[stop + 1]
            assert json.loads(json.dumps(resumed.position())) == positions[stop + 1]

    def test_records_before_the_window_are_not_looked_at_again(self, tmp_path, tokenizer):
        path = write(tmp_path / "a.jsonl", records(3000))
        keys = {"streaming_multipack_buffer_size": 1000}
        feed = feed_of(prepare(tokenizer, path, **keys), micro_batch_size=1100)
        feed.rows_of(0)
        position = feed.position()
        lines = path.read_text().splitlines()
        spoiled = ["no JSON"] * 1000 + lines[1000:]
        resumed = feed_of(prepare(tokenizer, path, **keys), micro_batch_size=1100)
        write(path, spoiled)
        resumed.go_to(position)
        assert ids_of(resumed.rows_of(1)) == ids_of(feed.rows_of(1))

    def test_steps_are_read_one_after_the_other(self, tmp_path, tokenizer):
        feed = feed_of(prepare(tokenizer, write(tmp_path / "a.jsonl", records(9))))
        feed.rows_of(0)
        with pytest.raises(ValueError, match="next is step 1, not 3"):
            feed.rows_of(3)


def resident_bytes():
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("this system does not tell how much memory is in use")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class TestMemory:
    def test_stays_flat_however_many_records_there_are(self, tmp_path, tokenizer):
        """200,000 records in windows of 2,000: what all of their tokens take is never there."""
        path = tmp_path / "a.jsonl"
        with path.open("w") as file:
            for i in range(200_000):
                ids = [i % 400] * (20 + i % 20)
                file.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
        spec = spec_of(path, streaming_multipack_buffer_size=2000, dataset_num_proc=1)
        spec = spec.model_copy(update={"datasets": (DatasetSpec(path=str(path)),)})
        prepared = prepare_stream(spec, tokenizer=tokenizer, seed=0, base_dir=Path())
        feed = feed_of(prepared, micro_batch_size=1000)
        num_tokens = 0
        for step in range(200):
            rows = feed.rows_of(step)
            num_tokens += sum(len(record.input_ids) for row in rows for record in row)
            if step == 20:
                early = resident_bytes()
        assert num_tokens == 200_000 * 29.5
        assert resident_bytes() - early < num_tokens * 8 / 4, "of the bytes of all ids and labels"


class TestBadRecords:
    def test_the_same_words_as_for_records_that_are_read_whole(self, tmp_path, tokenizer):
        path = write(tmp_path / "a.jsonl", [*records(40), {"q": "no answer"}])
        with pytest.raises(UserError) as streamed:
            prepare(tokenizer, path)
        with pytest.raises(UserError) as whole:
            prepare_data(
                spec_of(path, streaming=False), tokenizer=tokenizer, seed=0, base_dir=tmp_path
            )
        assert streamed.value.problems == whole.value.problems

    def test_the_head_of_each_set_is_looked_at_beforehand(self, tmp_path, tokenizer):
        good = write(tmp_path / "a.jsonl", records(2000))
        bad = write(tmp_path / "b.jsonl", [{"q": "no answer"}] * 100)
        with pytest.raises(UserError, match=r"100 of 1,100 records \(9.1%\) can't be used"):
            prepare(tokenizer, good, bad)

    def test_what_comes_later_is_counted_as_it_comes(self, tmp_path, tokenizer):
        """10 of 1,000 may be lost; the 30 of the second thousand are too many."""
        rows = records(3000)
        rows[1500:1530] = [{"q": "no answer"}] * 30
        path = write(tmp_path / "a.jsonl", rows)
        prepared = prepare(tokenizer, path, streaming_multipack_buffer_size=1000)
        feed = feed_of(prepared, micro_batch_size=1000)
        feed.rows_of(0)
        with pytest.raises(UserError, match=r"30 of 2,000 records \(1.5%\) can't be used"):
            feed.rows_of(1)

    def test_a_stream_of_nothing_ends(self, tmp_path, tokenizer):
        """The head was good when it was read; then the file lost all its records."""
        path = write(tmp_path / "a.jsonl", records(5))
        feed = feed_of(prepare(tokenizer, path))
        path.write_text("")
        with pytest.raises(UserError, match="no records to train on"):
            feed.rows_of(0)


class TestSources:
    """Every format gives the records that it gives when it is read whole, and leaves nothing."""

    @pytest.fixture
    def formats(self, tmp_path):
        rows = datasets.Dataset.from_list(records(25))
        rows.to_csv(tmp_path / "a.csv", index=False)
        rows.to_parquet(tmp_path / "a.parquet")
        rows.save_to_disk(tmp_path / "saved")
        write(tmp_path / "a.jsonl", records(25))
        with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
            file.write((tmp_path / "a.jsonl").read_text())
        (tmp_path / "folder").mkdir()
        rows.to_parquet(tmp_path / "folder" / "train.parquet")
        return tmp_path

    @pytest.mark.parametrize(
        "name", ["a.csv", "a.parquet", "saved", "a.jsonl", "packed.jsonl.gz", "folder"]
    )
    @pytest.mark.parametrize("split", [None, "train[3:20]"])
    def test_the_same_records(self, formats, monkeypatch, name, split):
        entry = DatasetSpec(path=str(formats / name), split=split)
        kept = formats / "kept"
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(kept))
        streamed = [each.fields for each in read_records(entry, formats, streams=True)]
        assert not kept.exists() or not list(kept.rglob("*.arrow"))
        assert streamed == [each.fields for each in read_records(entry, formats)]
        assert len(streamed) == (17 if split else 25)

    @pytest.mark.parametrize("split", ["train[:50%]", "train[-5:]"])
    def test_a_share_of_a_stream_is_refused(self, formats, split):
        entry = DatasetSpec(path=str(formats / "a.parquet"), split=split)
        with pytest.raises(UserError, match="nobody knows how many records a stream has"):
            read_records(entry, formats, streams=True)

    def test_a_file_that_breaks_off_is_told_as_such(self, formats):
        broken = formats / "broken.parquet"
        broken.write_bytes((formats / "a.parquet").read_bytes()[:-20])
        entry = DatasetSpec(path=str(broken))
        with pytest.raises(UserError, match=r"can't read .*broken.parquet"):
            list(read_records(entry, formats, streams=True))

    @pytest.mark.parametrize("name", ["a.csv", "folder"])
    def test_what_tells_a_file_is_size_and_time(self, formats, name):
        path = formats / name
        file = path if path.is_file() else path / "train.parquet"
        entry = DatasetSpec(path=str(path))
        before = identify_stream(entry, formats)
        assert identify_stream(entry, formats) == before
        os.utime(file, (1, 1))
        assert identify_stream(entry, formats) != before


class TestPreview:
    def test_reads_the_head_alone_and_says_so(self, tmp_path, tokenizer):
        path = write(tmp_path / "a.jsonl", [*records(1000), *["no JSON"] * 500])
        training = TrainingSpec(learning_rate=1e-3, max_steps=9)
        preview = preview_data(spec_of(path), training, tokenizer=tokenizer, base_dir=tmp_path)
        assert preview.problems == ()
        assert preview.sets[0].account.report.num_read == 1000
        lines = dict(run_lines(preview.steps, 64))
        assert lines["rows"] == "a stream: this is its head, 1,000 rows"
        assert lines["steps"] == "9 of 1 row each (in one process)"


CONFIG = """\
base_model: a/b
datasets:
  - path: a/c
    type: alpaca
learning_rate: 1e-4
streaming: true
"""


@pytest.mark.parametrize(
    ("keys", "what", "fix"),
    [
        ("", "streaming needs max_steps", "set max_steps"),
        ("max_steps: 5\nval_set_size: 0.1", "a stream can't be split", "test_datasets"),
        ("max_steps: 5\nsaves_per_epoch: 2", "where an epoch of a stream ends", "save_steps"),
        ("max_steps: 5\neval_strategy: epoch", "where an epoch of a stream ends", "eval_steps"),
    ],
)
def test_keys_that_no_stream_can_follow(tmp_path, keys, what, fix):
    config = tmp_path / "run.yml"
    config.write_text(CONFIG + keys)
    with pytest.raises(UserError) as caught:
        load_spec(config)
    (problem,) = caught.value.problems
    assert what in problem.what
    assert fix in problem.fix

"""Packs are full, the same everywhere, and made in a moment; plans deal every record out once."""

import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from ft.data.packing import pack
from ft.data.steps import plan_steps

# How many of the 5,510 know_sql records have 28, 29, 30, ... tokens: context_qa.load_v2, Llama-2's
# tokenizer. The longest, 165 to 224 tokens, are in a list of their own.
KNOW_SQL_FROM_28 = """
3 3 0 0 2 2 1 0 1 4 1 3 9 6 0 3 5 7 9 14 28 30 44 51 71 87 100 88 85 116 104 116 120 108 116 117
125 123 142 147 144 136 144 121 138 142 127 135 130 105 96 130 115 96 85 99 82 98 92 60 69 84 68
66 66 44 52 58 42 40 43 40 33 24 39 41 24 25 23 23 21 17 29 20 18 13 14 7 9 11 11 11 11 10 8 7 7 6
6 9 7 3 6 7 4 8 3 1 8 2 2 0 3 1 1 0 4 1 1 2 3 1 0 1 3 0 1 1 1 0 2 0 0 0 0 1 0
"""
KNOW_SQL_LONGEST = "165 168 171 171 171 172 172 173 173 178 178 182 183 193 199 223 224"


def know_sql_lengths():
    counts = [int(count) for count in KNOW_SQL_FROM_28.split()]
    longest = [int(length) for length in KNOW_SQL_LONGEST.split()]
    return np.concatenate([np.repeat(np.arange(28, 28 + len(counts)), counts), longest])


def some_lengths(name, count=3000, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "uniform": generator.integers(1, 513, count),
        "chat": np.clip(generator.lognormal(5, 1, count).astype(int), 4, 512),
        "alike": np.full(count, 100),
        "full": np.full(count, 512),
        "tiny": generator.integers(1, 4, count),
    }[name]


def best_fit_one_by_one(lengths, capacity):
    """The definition: longest first, each where the least room is left."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


class TestPacks:
    def test_an_example(self):
        assert pack([3, 5, 1, 7, 3, 5, 2, 1, 3], 10).packs == [[3, 0], [1, 5], [4, 8, 6, 2, 7]]

    @pytest.mark.parametrize("name", ["uniform", "chat", "alike", "full", "tiny"])
    def test_each_record_is_in_one_pack_and_none_is_overfull(self, name):
        lengths = some_lengths(name)
        packs = pack(lengths, 512).packs
        assert sorted(i for each in packs for i in each) == list(range(len(lengths)))
        assert all(1 <= lengths[each].sum() <= 512 for each in packs)

    @pytest.mark.parametrize("name", ["uniform", "chat", "alike", "tiny"])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_they_are_best_fit_decreasing(self, name, seed):
        lengths = some_lengths(name, 150, seed)
        packing = pack(lengths, 512)
        rooms = sorted(512 - int(lengths[each].sum()) for each in packing.packs)
        assert rooms == best_fit_one_by_one(lengths.tolist(), 512)

    @pytest.mark.parametrize("times", [1, 14])
    def test_know_sql_is_99_percent_full_at_2048(self, times):
        lengths = np.tile(know_sql_lengths(), times)
        assert len(lengths) == 5510 * times
        packing = pack(lengths, 2048)
        assert packing.efficiency >= 0.99
        assert packing.num_packs <= 1.007 * lengths.sum() / 2048

    def test_a_million_take_a_moment(self):
        """Processor time, so that a busy machine is no failure. Measured: benchmarks/packing.md."""
        lengths = np.random.default_rng(0).integers(1, 2049, 1_000_000)
        started = time.process_time()
        pack(lengths, 2048).fill(np.random.default_rng(1))
        assert time.process_time() - started < 15

    def test_nothing_to_pack(self):
        packing = pack([], 8)
        assert (packing.num_packs, packing.packs, packing.efficiency) == (0, [], 1.0)

    @pytest.mark.parametrize("lengths", [[3, 9], [0, 4]])
    def test_what_does_not_fit_is_refused(self, lengths):
        with pytest.raises(ValueError, match="in packs of 8"):
            pack(lengths, 8)


def plan(lengths, *, passes=(2, 3), num_processes=1, seed=5, packing=False, grouped=False):
    """``passes``: micro_batch_size and gradient_accumulation_steps."""
    training = SimpleNamespace(
        micro_batch_size=passes[0],
        gradient_accumulation_steps=passes[1],
        seed=seed,
        sample_packing=packing,
        group_by_length=grouped,
    )
    return plan_steps(lengths, training, sequence_len=512, num_processes=num_processes)


WAYS = {"shuffled": {}, "packed": {"packing": True}, "grouped": {"grouped": True}}


def records_of(steps, step):
    return [record for row in steps.rows_of(step) for record in row]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
class TestPlans:
    @pytest.mark.parametrize("num_processes", [1, 2, 3])
    def test_an_epoch_sees_each_record_once_whoever_reads_it(self, way, num_processes):
        lengths = some_lengths("chat", 331)
        steps = plan(lengths, num_processes=num_processes, **way)
        seen = []
        for step in range(steps.steps_per_epoch, 2 * steps.steps_per_epoch):
            rows = steps.rows_of(step)
            shares = [rows[process::num_processes] for process in range(num_processes)]
            assert sorted(row for share in shares for row in share) == sorted(rows)
            assert 1 <= len(rows) <= steps.rows_per_step
            seen += records_of(steps, step)
        assert sorted(seen) == list(range(331))

    def test_a_step_holds_the_same_rows_however_it_is_cut_and_dealt(self, way):
        lengths = some_lengths("chat", 331)
        one = plan(lengths, passes=(4, 2), **way)
        for other in (
            plan(lengths, passes=(1, 8), **way),
            plan(lengths, passes=(2, 2), num_processes=2, **way),
            plan(lengths, passes=(1, 1), num_processes=8, **way),
        ):
            assert other.steps_per_epoch == one.steps_per_epoch
            for step in (0, 1, one.steps_per_epoch + 1):
                assert other.rows_of(step) == one.rows_of(step)

    def test_a_step_can_be_asked_for_without_those_before(self, way):
        """So a resumed run needs nothing but its number."""
        lengths = some_lengths("chat", 331)
        straight, resumed = plan(lengths, **way), plan(lengths, **way)
        rows = [straight.rows_of(step) for step in range(2 * straight.steps_per_epoch)]
        assert resumed.rows_of(len(rows) - 2) == rows[-2]

    def test_epochs_and_seeds_differ(self, way):
        lengths = some_lengths("chat", 331)
        steps = plan(lengths, **way)
        assert steps.rows_of(0) != steps.rows_of(steps.steps_per_epoch)
        assert steps.rows_of(0) != plan(lengths, seed=6, **way).rows_of(0)


class TestPackedSteps:
    def test_a_row_is_a_pack(self):
        lengths = some_lengths("chat", 331)
        steps = plan(lengths, packing=True)
        rows = [row for step in range(steps.steps_per_epoch) for row in steps.rows_of(step)]
        assert len(rows) == steps.packing.num_packs == pack(lengths, 512).num_packs
        assert all(steps.num_tokens(row) == lengths[list(row)].sum() <= 512 for row in rows)

    def test_records_of_one_length_change_packs_from_epoch_to_epoch(self):
        """As many packs in each epoch, but not the same ones."""
        steps = plan(np.full(400, 100), passes=(1, 1), packing=True)
        epochs = [
            {frozenset(steps.rows_of(epoch * 80 + step)[0]) for step in range(80)}
            for epoch in range(2)
        ]
        assert steps.steps_per_epoch == 80
        assert [len(rows) for rows in epochs] == [80, 80]
        assert epochs[0] != epochs[1]


class TestGroupedSteps:
    def test_steps_need_few_pad_tokens(self):
        lengths = some_lengths("chat", 3000)

        def pad_share(steps):
            widths = [
                lengths[records_of(steps, step)].max() * len(steps.rows_of(step))
                for step in range(steps.steps_per_epoch)
            ]
            return 1 - lengths.sum() / sum(widths)

        assert pad_share(plan(lengths)) > 0.4
        assert pad_share(plan(lengths, grouped=True)) < 0.05

    def test_the_longest_record_comes_first_and_what_is_left_over_last(self):
        lengths = np.random.default_rng(3).permutation(335) + 1
        steps = plan(lengths, grouped=True)
        assert lengths[records_of(steps, 0)].max() == 335
        sizes = [len(steps.rows_of(step)) for step in range(steps.steps_per_epoch)]
        assert sizes == [6] * 55 + [5]

    def test_long_and_short_steps_take_turns(self):
        lengths = some_lengths("chat", 3000)
        steps = plan(lengths, grouped=True)
        means = np.array([lengths[records_of(steps, step)].mean() for step in range(500)])
        assert abs(np.corrcoef(means, np.arange(500))[0, 1]) < 0.2

    @pytest.mark.parametrize("num_records", [1, 5, 6, 7])
    def test_few_records(self, num_records):
        steps = plan(np.arange(1, num_records + 1), grouped=True)
        seen = [i for step in range(steps.steps_per_epoch) for i in records_of(steps, step)]
        assert sorted(seen) == list(range(num_records))


def test_steps_are_counted_without_torch():
    script = (
        "import sys, ft.data.steps, ft.data.packing\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

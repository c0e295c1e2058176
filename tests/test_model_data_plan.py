from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from model.data.plan import EvalPlan, Segment, TrainPlan, own_lanes
from model.errors import InputError

Lengths = npt.NDArray[np.int64]
Word = tuple[int, int]
"""A record and which of its words."""


def random_lengths(seed: int, *, records: int, most: int) -> Lengths:
    return np.random.default_rng(seed).integers(0, most, records)


# name: lengths, lanes, window
CASES = {
    "many short": (random_lengths(1, records=60, most=12), 4, 5),
    "few long": (random_lengths(2, records=6, most=300) + 40, 3, 8),
    "one record": (np.asarray([97]), 2, 3),
    "one lane": (random_lengths(3, records=20, most=30), 1, 7),
    "one word a step": (random_lengths(4, records=10, most=9), 5, 1),
    "just one step": (np.asarray([3, 0, 9]), 3, 4),
    "nothing left over": (np.asarray([16, 16, 32]), 4, 4),
    "almost a step left over": (np.asarray([10, 13]), 3, 4),
    "one and a little one": (np.asarray([97, 0, 1]), 2, 7),
    "one step of one record": (np.asarray([5]), 1, 3),
}
RINGS = {
    "one record",
    "almost a step left over",
    "one and a little one",
    "one step of one record",
}
"""Of these, each epoch begins where the one before stopped: in any order the same words are last."""


def words_of(segments: list[Segment]) -> list[Word]:
    return [(s.record, word) for s in segments for word in range(s.start, s.stop)]


def lane_words(plan: TrainPlan, lane: int, *, epoch: int = 0) -> list[Word]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return [word for step in steps for word in words_of(plan.step_segments(step)[lane])]


def epoch_words(plan: TrainPlan, epoch: int = 0) -> list[Word]:
    """Returns what an epoch reads, lane after lane."""
    return [w for lane in range(plan.lanes) for w in lane_words(plan, lane, epoch=epoch)]


def record_runs(words: list[Word]) -> Iterator[list[Word]]:
    """Yields the stretches of words of one record."""
    run: list[Word] = []
    for word in words:
        if run and word[0] != run[-1][0]:
            yield run
            run = []
        run.append(word)
    yield run


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_is_whole_records_end_to_end(case: str, epoch: int) -> None:
    lengths, lanes, window = CASES[case]
    plan = TrainPlan(lengths, lanes=lanes, window=window, seed=7)
    words = epoch_words(plan, epoch)
    assert len(words) == plan.steps_per_epoch * lanes * window
    assert len(set(words)) == len(words)  # none is read twice
    assert plan.dropped_words == lengths.sum() - len(words)
    assert 0 <= plan.dropped_words < lanes * window
    if epoch and case in RINGS:
        return
    # Lane after lane, step after step, the words are one stream: each record from its first
    # word to its last, but the last record, which may be cut. So a lane's next step goes on
    # where its step before stopped, and a lane where the one before it ends.
    runs = list(record_runs(words))
    assert len({run[0][0] for run in runs}) == len(runs)
    for run in runs:
        assert [word for _, word in run] == list(range(len(run)))
    assert all(len(run) == lengths[run[0][0]] for run in runs[:-1])


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_one_window_a_lane_in_true_segments(case: str) -> None:
    lengths, lanes, window = CASES[case]
    plan = TrainPlan(lengths, lanes=lanes, window=window, seed=1)
    for step in range(2 * plan.steps_per_epoch):
        for lane in range(lanes):
            segments = plan.step_segments(step)[lane]
            assert sum(s.stop - s.start for s in segments) == window
            assert all(0 <= s.start < s.stop <= lengths[s.record] for s in segments)


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_a_stretch_of_the_stream_for_each_lane(case: str) -> None:
    """Word by word, as the docstring has it: nothing is computed as the plan does."""
    lengths, lanes, window = CASES[case]
    plan = TrainPlan(lengths, lanes=lanes, window=window, seed=9)
    for epoch in (0, 3):
        order = np.random.default_rng([9, epoch]).permutation(len(lengths))
        stream = [(int(record), word) for record in order for word in range(lengths[record])]
        if case in RINGS:
            begin = epoch * plan.dropped_words % len(stream)
            stream = stream[begin:] + stream[:begin]
        size = plan.steps_per_epoch * window
        for step in range(plan.steps_per_epoch):
            segments = plan.step_segments(epoch * plan.steps_per_epoch + step)
            begins = [lane * size + step * window for lane in range(lanes)]
            assert [words_of(one) for one in segments] == [
                stream[begin : begin + window] for begin in begins
            ]
            # One segment a record, and plain numbers in it.
            for one in segments:
                assert case in RINGS or len({segment.record for segment in one}) == len(one)
                assert {type(value) for segment in one for value in segment} == {int}


@pytest.mark.parametrize("case", CASES)
def test_no_word_is_left_out_in_every_epoch(case: str) -> None:
    lengths, lanes, window = CASES[case]
    plan = TrainPlan(lengths, lanes=lanes, window=window, seed=7)
    never = {(record, word) for record, size in enumerate(lengths) for word in range(size)}
    for epoch in range(100):
        never -= set(epoch_words(plan, epoch))
    assert not never


def test_one_record_is_left_out_evenly() -> None:
    """97 words, of which an epoch leaves out one: in 97 epochs each of them once."""
    plan = TrainPlan(np.asarray([97]), lanes=2, window=3, seed=7)
    assert plan.dropped_words == 1
    left_out = [set(range(97)) - {word for _, word in epoch_words(plan, e)} for e in range(97)]
    assert left_out == [{(96 + epoch) % 97} for epoch in range(97)]


def test_a_far_step_of_a_billion_words() -> None:
    lengths = random_lengths(6, records=1_000_000, most=2001)
    started = time.process_time()
    plan = TrainPlan(lengths, lanes=64, window=35, seed=1)
    segments = plan.step_segments(1_000_000)
    assert time.process_time() - started < 1.0
    assert 990_000_000 < plan.words < 1_010_000_000
    order = np.random.default_rng([1, 1_000_000 // plan.steps_per_epoch]).permutation(1_000_000)
    begin = (63 * plan.steps_per_epoch + 1_000_000 % plan.steps_per_epoch) * 35
    place = int(np.searchsorted(np.cumsum(lengths[order]), begin, side="right"))
    assert segments[63][0].record == order[place]
    assert segments[63][0].start == begin - lengths[order[:place]].sum()
    assert plan.step_segments(1_000_000)[63] == segments[63]
    assert all(sum(s.stop - s.start for s in one) == 35 for one in segments)


def test_any_step_can_be_reached_at_once() -> None:
    lengths, lanes, window = CASES["many short"]
    first = TrainPlan(lengths, lanes=lanes, window=window, seed=3)
    steps = range(5 * first.steps_per_epoch)
    places = [(step, lane) for step in steps for lane in range(lanes)]
    in_order = {place: first.step_segments(place[0])[place[1]] for place in places}
    np.random.default_rng(0).shuffle(places)
    second = TrainPlan(lengths, lanes=lanes, window=window, seed=3)
    assert {place: second.step_segments(place[0])[place[1]] for place in places} == in_order
    # A plan that is made for one far step only:
    last = max(in_order)
    alone = TrainPlan(lengths, lanes=lanes, window=window, seed=3)
    assert alone.step_segments(last[0])[last[1]] == in_order[last]


def test_order_depends_on_epoch_and_seed_only() -> None:
    lengths, lanes, window = CASES["many short"]

    def read(seed: int, epoch: int) -> list[Word]:
        return epoch_words(TrainPlan(lengths, lanes=lanes, window=window, seed=seed), epoch)

    assert read(1, 0) == read(1, 0)
    orders = [tuple(read(seed, epoch)) for seed in (1, 2, 3) for epoch in (0, 1, 2)]
    assert len(set(orders)) == len(orders)


def test_other_words_are_left_over_each_epoch() -> None:
    plan = TrainPlan(random_lengths(5, records=40, most=9), lanes=4, window=4, seed=1)
    assert plan.dropped_words > 0
    left = [frozenset(epoch_words(plan, epoch)) for epoch in range(6)]
    assert len(set(left)) > 1
    every = {(r, w) for r, length in enumerate(plan.lengths) for w in range(length)}
    assert frozenset().union(*left) == every


def test_what_an_epoch_is() -> None:
    plan = TrainPlan(np.asarray([1000, 234]), lanes=8, window=7, seed=1)
    assert plan.describe() == (
        "an epoch is 22 steps of 8 lanes x 7 words; it reads 1,232 of 1,234 words and leaves "
        "out 2, different ones each epoch"
    )
    assert plan.dropped_words == 1234 - 22 * 8 * 7


@pytest.mark.parametrize(("lanes", "window"), [(3, 4), (12, 1), (1, 12)])
def test_one_batch_is_enough_and_a_word_less_is_not(lanes: int, window: int) -> None:
    plan = TrainPlan(np.asarray([5, 7]), lanes=lanes, window=window, seed=1)
    assert (plan.steps_per_epoch, plan.dropped_words) == (1, 0)
    for lengths in (np.asarray([5, 6]), np.asarray([], np.int64)):
        with pytest.raises(InputError) as caught:
            TrainPlan(lengths, lanes=lanes, window=window, seed=1)
        assert str(caught.value) == (
            f"the training split has {lengths.sum()} words and one batch needs 12 (train.lanes "
            f"{lanes} x train.window {window}); lower train.lanes or train.window"
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lanes", [1, 2, 7, 100])
@pytest.mark.parametrize("window", [1, 4, 1000])
def test_evaluation_reads_every_word_once(case: str, lanes: int, window: int) -> None:
    lengths = CASES[case][0]
    plan = EvalPlan(lengths, lanes=lanes, window=window)
    read: list[Word] = []
    for lane in range(lanes):
        segments = [plan.segment(step, lane) for step in range(plan.steps)]
        there = [segment for segment in segments if segment]
        assert segments[: len(there)] == there  # a lane that is through stays so
        assert all(0 < s.stop - s.start <= window for s in there)
        # A record is read in one lane from its start to its end, so a state that is set to
        # zero where start is 0 sees this record only.
        for run in record_runs(words_of(there)) if there else ():
            assert run == [(run[0][0], word) for word in range(lengths[run[0][0]])]
        # All windows of a record but the last are full.
        assert all(s.stop - s.start == window or s.stop == lengths[s.record] for s in there)
        read += words_of(there)
    every = [(r, w) for r, length in enumerate(lengths) for w in range(length)]
    assert sorted(read) == every


def test_evaluation_lanes_are_even() -> None:
    assert EvalPlan(np.full(12, 10), lanes=4, window=5).steps == 6
    assert EvalPlan(np.asarray([40, 10, 10, 10, 10]), lanes=2, window=10).steps == 4
    assert EvalPlan(np.asarray([1]), lanes=3, window=5).steps == 1


def test_evaluation_of_nothing() -> None:
    plan = EvalPlan(np.asarray([], np.int64), lanes=3, window=5)
    assert plan.steps == 0
    assert plan.segment(0, 2) is None


@pytest.mark.parametrize(("lanes", "count"), [(1, 1), (12, 1), (12, 2), (12, 3), (12, 12)])
def test_lanes_are_dealt_evenly_and_in_order(lanes: int, count: int) -> None:
    shares = [own_lanes(lanes, index=index, count=count) for index in range(count)]
    assert [lane for share in shares for lane in share] == list(range(lanes))
    assert {len(share) for share in shares} == {lanes // count}


@pytest.mark.parametrize(
    ("lanes", "count", "better"), [(32, 3, 33), (4, 3, 3), (1, 2, 2), (1, 3, 3), (7, 2, 8)]
)
def test_lanes_that_cannot_be_shared(lanes: int, count: int, better: int) -> None:
    with pytest.raises(InputError) as caught:
        own_lanes(lanes, index=0, count=count)
    assert str(caught.value) == (
        f"train.lanes is {lanes}, which is not divisible by {count} workers; "
        f"use --set train.lanes={better}"
    )
    own_lanes(better, index=0, count=count)


def test_evaluation_deals_by_windows_not_by_words() -> None:
    """Records of 9, 10 and 16 words are two windows of 8 each: the first of them goes first."""
    plan = EvalPlan(np.asarray([9, 10, 3, 16, 1]), lanes=2, window=8)
    read = [[plan.segment(step, lane) for step in range(plan.steps)] for lane in range(2)]
    assert read == [
        [Segment(0, 0, 8), Segment(0, 8, 9), Segment(3, 0, 8), Segment(3, 8, 16)],
        [Segment(1, 0, 8), Segment(1, 8, 10), Segment(2, 0, 3), Segment(4, 0, 1)],
    ]


@pytest.mark.parametrize(("others", "begins"), [(3, 4), (4, 0)])
def test_an_epoch_begins_where_the_last_one_ended_only_if_a_record_would_never_be_read_whole(
    others: int, begins: int
) -> None:
    """4 words are left over: fewer others could not move the longest record's end into a step."""
    lengths = np.asarray([20 - others, others])
    plan = TrainPlan(lengths, lanes=2, window=8, seed=1)
    assert plan.dropped_words == 4
    assert plan._shift(1) == begins
